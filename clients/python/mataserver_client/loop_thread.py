"""An event loop in a thread of its own, for code that has none."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from mataserver_client.failures import ConnectionFailed
from mataserver_client.stream import close_idle

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator

T = TypeVar("T")


class LoopThread:
    """Runs coroutines on the loop, for any number of threads.

    ``at_end()`` is awaited on the loop once it closes, after every call was cancelled.
    """

    def __init__(self, at_end: Callable[[], Awaitable[None]]) -> None:
        self._at_end = at_end
        self._lock = threading.RLock()  # a collected stream may close within a locked section
        self._closed = False
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="mataserver-client", daemon=True)
        self._thread.start()
        # A stream that is left open would be closed when the interpreter collects it, and wait for
        # this thread, which the interpreter has stopped by then.
        atexit.register(self.close)

    def close(self) -> None:
        """End everything; a second call does nothing."""
        atexit.unregister(self.close)
        if not self._thread.is_alive():  # in a process that was forked since
            return
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def iterate(self, stream: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """Iterate over a stream that was made on the loop."""
        try:
            while (item := self.call(_step(stream))) is not None:
                yield item
        finally:
            # The collector may run this in the loop's own thread, which cannot wait for itself;
            # there, and after close(), the loop has the stream closed.
            if threading.current_thread() is not self._thread and not self._closed:
                self.call(close_idle(stream))

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it.

        Raises ``RuntimeError`` once closed, and in a process that was forked since, which has no
        such thread; ``ConnectionFailed`` for what closing cancelled.
        """
        with self._lock:
            if self._closed or not self._thread.is_alive():
                coroutine.close()
                what = "is closed" if self._closed else "belongs to the process that made it"
                raise RuntimeError(f"the client {what}")
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
        await self._at_end()


async def _step(stream: AsyncGenerator[T, None]) -> T | None:
    return await anext(stream, None)
