"""An event loop in a thread of its own, for code that has none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from mataserver_client.failures import ClosedMeanwhile
from mataserver_client.stream import close_idle

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator

T = TypeVar("T")


class LoopThread:
    """Runs coroutines on the loop, for any number of threads.

    ``at_end()`` is awaited on the loop once it closes, after every call was cancelled. It closes by
    itself when nobody holds it any more, and before the interpreter ends.
    """

    def __init__(self, at_end: Callable[[], Awaitable[None]]) -> None:
        self._lock = threading.RLock()  # a collected stream may close within a locked section
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        # The thread does not hold this object, which could never be collected then.
        self._thread = threading.Thread(
            target=_serve,
            args=(self._loop, self._stop, at_end),
            name="mataserver-client",
            daemon=True,
        )
        self._thread.start()
        self._open = weakref.finalize(
            self, _end, weakref.ref(self), self._thread, self._loop, self._stop
        )

    def close(self) -> None:
        """End everything; a second call does nothing."""
        with self._lock:
            was_open = self._open.detach()
        if not self._thread.is_alive():  # in a process that was forked since
            return
        if was_open:
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
            if threading.current_thread() is not self._thread and self._open.alive:
                self.call(close_idle(stream))

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it.

        Raises ``ConnectionFailed`` once closed, also for what closing cancelled, and
        ``RuntimeError`` in a process that was forked since, which has no such thread.
        """
        with self._lock:
            if not self._open.alive or not self._thread.is_alive():
                coroutine.close()
                if not self._open.alive:
                    raise ClosedMeanwhile
                raise RuntimeError("the client belongs to the process that made it")
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClosedMeanwhile from None
        finally:
            future.cancel()  # after an interrupt; a finished call does not mind


def _serve(
    loop: asyncio.AbstractEventLoop, stop: asyncio.Event, at_end: Callable[[], Awaitable[None]]
) -> None:
    # Not asyncio.Runner: it begins a thread to end the executor, and at the end of an interpreter
    # of Python 3.12 none begins.
    with concurrent.futures.ThreadPoolExecutor() as executor:
        loop.set_default_executor(executor)
        try:
            loop.run_until_complete(_live(stop, at_end))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


async def _live(stop: asyncio.Event, at_end: Callable[[], Awaitable[None]]) -> None:
    await stop.wait()
    await _cancel_others()
    await at_end()
    await _cancel_others()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _end(
    owner: weakref.ref[LoopThread],
    thread: threading.Thread,
    loop: asyncio.AbstractEventLoop,
    stop: asyncio.Event,
) -> None:
    """End a loop whose owner was collected, or lives on at the interpreter's end.

    The latter waits: a stream that is left open would be closed when the interpreter collects it,
    and wait for this thread, which the interpreter has stopped by then. The collector must not
    wait: it interrupts any code, which may hold what the thread needs for its end.
    """
    if thread.is_alive():  # not in a process that was forked since
        loop.call_soon_threadsafe(stop.set)
        if owner() is not None:
            thread.join()


async def _step(stream: AsyncGenerator[T, None]) -> T | None:
    return await anext(stream, None)
