"""The client for code without an event loop: the asynchronous one, run in a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mataserver_client.asynchronous import AsyncClient
from mataserver_client.failures import ConnectionFailed
from mataserver_client.stream import close_idle

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Generator, Mapping

    from mataserver_client.images import Image
    from mataserver_client.replies import Health, ModelStatus, Session, StreamItem
    from mataserver_client.results import InferResponse, ModelInfo
    from mataserver_client.source import Frames
    from mataserver_client.stream import Reconnect
    from mataserver_client.transport import Answer

T = TypeVar("T")


class Client:
    """``AsyncClient`` with plain methods: same arguments, same answers, same exceptions.

    Any number of threads may use one client. Close it, or use it as ``with Client(...) as client``;
    closing ends the calls and streams that are under way, waits for a plain iterable of frames
    that is being read, and leaves no thread behind.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8110",
        api_key: str | None = None,
        *,
        timeout: float | None = 300.0,
        msgpack: bool = False,
    ) -> None:
        self._client = AsyncClient(url, api_key, timeout=timeout, msgpack=msgpack)
        self._lock = threading.RLock()  # a collected stream may close within a locked section
        self._closed = False
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="mataserver-client", daemon=True)
        self._thread.start()
        self._call(self._client.__aenter__())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._client).replace(AsyncClient.__name__, type(self).__name__)

    def close(self) -> None:
        """End everything; a second call does nothing."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def request(
        self,
        method: str,
        path: str,
        value: object = None,
        *,
        data: bytes | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """See ``AsyncClient.request``."""
        asked = self._client.request(method, path, value, data=data, query=query, headers=headers)
        return self._call(asked)

    def health(self) -> Health:
        """See ``AsyncClient.health``."""
        return self._call(self._client.health())

    def models(self) -> list[ModelInfo]:
        """See ``AsyncClient.models``."""
        return self._call(self._client.models())

    def model(self, model: str) -> ModelInfo:
        """See ``AsyncClient.model``."""
        return self._call(self._client.model(model))

    def params(self, model: str) -> dict[str, Any]:
        """See ``AsyncClient.params``."""
        return self._call(self._client.params(model))

    def pull(self, model: str, task: str) -> ModelStatus:
        """See ``AsyncClient.pull``."""
        return self._call(self._client.pull(model, task))

    def warmup(self, model: str) -> ModelStatus:
        """See ``AsyncClient.warmup``."""
        return self._call(self._client.warmup(model))

    def unload(self, model: str) -> ModelStatus:
        """See ``AsyncClient.unload``."""
        return self._call(self._client.unload(model))

    def pin(self, model: str) -> ModelStatus:
        """See ``AsyncClient.pin``."""
        return self._call(self._client.pin(model))

    def unpin(self, model: str) -> ModelStatus:
        """See ``AsyncClient.unpin``."""
        return self._call(self._client.unpin(model))

    def remove(self, model: str) -> ModelStatus:
        """See ``AsyncClient.remove``."""
        return self._call(self._client.remove(model))

    def infer(self, model: str, image: Image, **params: Any) -> InferResponse:
        """See ``AsyncClient.infer``."""
        return self._call(self._client.infer(model, image, **params))

    def upload(self, model: str, image: Image, **params: Any) -> InferResponse:
        """See ``AsyncClient.upload``."""
        return self._call(self._client.upload(model, image, **params))

    def infer_raw(self, model: str, image: Image, **params: Any) -> InferResponse:
        """See ``AsyncClient.infer_raw``."""
        return self._call(self._client.infer_raw(model, image, **params))

    def generate(
        self, model: str, image: Image, **params: Any
    ) -> Generator[str | InferResponse, None, None]:
        """See ``AsyncClient.generate``."""

        async def begin() -> AsyncGenerator[str | InferResponse, None]:
            return self._client.generate(model, image, **params)

        return self._iterate(self._call(begin()))

    def queues(self) -> dict[str, int]:
        """See ``AsyncClient.queues``."""
        return self._call(self._client.queues())

    def plugins(self) -> list[dict[str, Any]]:
        """See ``AsyncClient.plugins``."""
        return self._call(self._client.plugins())

    def settings(self) -> list[dict[str, Any]]:
        """See ``AsyncClient.settings``."""
        return self._call(self._client.settings())

    def sessions(self) -> list[dict[str, Any]]:
        """See ``AsyncClient.sessions``."""
        return self._call(self._client.sessions())

    def session(self, session_id: str) -> dict[str, Any]:
        """See ``AsyncClient.session``."""
        return self._call(self._client.session(session_id))

    def create_session(self, model: str, task: str | None = None, **params: Any) -> Session:
        """See ``AsyncClient.create_session``."""
        return self._call(self._client.create_session(model, task, **params))

    def delete_session(self, session_id: str) -> None:
        """See ``AsyncClient.delete_session``."""
        self._call(self._client.delete_session(session_id))

    def stream(
        self,
        model: str | Session,
        frames: Frames,
        *,
        task: str | None = None,
        window: int | None = 1,
        reconnect: bool | Reconnect = True,
        grace: float | None = 60.0,
        **params: Any,
    ) -> Generator[StreamItem, None, None]:
        """See ``AsyncClient.stream``. ``frames`` is read in another thread than the caller's."""

        async def begin() -> AsyncGenerator[StreamItem, None]:
            return self._client.stream(
                model,
                frames,
                task=task,
                window=window,
                reconnect=reconnect,
                grace=grace,
                **params,
            )

        return self._iterate(self._call(begin()))

    def _iterate(self, stream: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        try:
            while (item := self._call(_step(stream))) is not None:
                yield item
        finally:
            # The collector may run this in the loop's own thread, which cannot wait for itself;
            # there, and after close(), the loop has the stream closed.
            if threading.current_thread() is not self._thread and not self._closed:
                self._call(close_idle(stream))

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it."""
        with self._lock:
            if self._closed:
                coroutine.close()
                raise RuntimeError("the client is closed")
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ConnectionFailed("The client was closed during the call") from None
        finally:
            future.cancel()  # after an interrupt; a finished call does not mind

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        await self._stop.wait()
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._client.__aexit__(None, None, None)


async def _step(stream: AsyncGenerator[T, None]) -> T | None:
    return await anext(stream, None)
