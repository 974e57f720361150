"""The client for code without an event loop: the asynchronous one, run in a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from mataserver_client.asynchronous import AsyncClient
from mataserver_client.loop_thread import LoopThread
from mataserver_client.synchronous_jobs import JobCalls

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from mataserver_client.images import Image
    from mataserver_client.replies import Health, ModelStatus, Session, StreamItem
    from mataserver_client.results import InferResponse, ModelInfo
    from mataserver_client.source import Frames
    from mataserver_client.stream import Reconnect
    from mataserver_client.transport import Answer


class Client(JobCalls):
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
        self._loop_thread = LoopThread(self._client.__aexit__)
        self._call = self._loop_thread.call
        self._call(self._client.__aenter__())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._client).replace(AsyncClient.__name__, type(self).__name__)

    def close(self) -> None:
        """End everything; a second call does nothing."""
        self._loop_thread.close()

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

    def unload(self, model: str, *, if_loading: bool = False) -> ModelStatus:
        """See ``AsyncClient.unload``."""
        return self._call(self._client.unload(model, if_loading=if_loading))

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

        return self._loop_thread.iterate(self._call(begin()))

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

        return self._loop_thread.iterate(self._call(begin()))
