"""A daemon thread that runs functions one by one, and the record of those pending.

A hung thread does not keep the server from exiting: it is abandoned.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import queue
import threading
from typing import TYPE_CHECKING, Any

from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.engines.watchdog import Watchdog

    ResultCallback = Callable[[Any, Exception | None], None]

log = logging.getLogger("mataserver.thread")


class ModelThread:
    """Runs functions of one model; ``watchdog`` observes their start and end."""

    def __init__(self, name: str, watchdog: Watchdog) -> None:
        self._name = name
        self._watchdog = watchdog
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._ids = itertools.count(1)
        self._current = 0
        self._pending: dict[int, ResultCallback] = {}
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=f"model {name}", daemon=True)
        self._thread.start()

    @property
    def ident(self) -> int | None:
        """The thread's identifier."""
        return self._thread.ident

    @property
    def is_busy(self) -> bool:
        """Whether anything is pending."""
        return bool(self._pending)

    def post(self, function: Callable[[], None]) -> None:
        """Run ``function`` in the thread and discard its result."""
        self._queue.put(function)

    def put(
        self, function: Callable[[], Any], callback: ResultCallback, *, watched: bool = True
    ) -> None:
        """Run ``function`` in the thread; pass its result or error to ``callback`` on the loop."""
        request = next(self._ids)
        self._pending[request] = callback
        if watched:
            self._watchdog.add_pending(request)
        self._queue.put(functools.partial(self._run_function, request, function))

    def submit(self, function: Callable[[], Any], *, watched: bool = True) -> asyncio.Future[Any]:
        """Run ``function`` in the thread; return a future of its result."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.put(function, functools.partial(_resolve, future), watched=watched)
        return future

    def fail_current(self, error: MataError) -> None:
        """Fail what runs now with ``error``, if it is still pending."""
        callback = self._pending.pop(self._current, None)
        if callback is not None:
            callback(None, error)

    def fail_all(self, error: MataError) -> None:
        """Fail everything pending with ``error``."""
        pending, self._pending = list(self._pending.values()), {}
        for callback in pending:
            callback(None, error)

    def end(self) -> None:
        """End the thread after the queued functions."""
        self._queue.put(None)

    def _run_function(self, request: int, function: Callable[[], Any]) -> None:
        """Run one function, in the thread, and report its result to the loop."""
        self._current = request
        try:
            value, error = function(), None
        except Exception as caught:  # noqa: BLE001 - the worker's edge: passed to the caller
            value, error = None, caught
        except BaseException:  # a model's SystemExit: the caller must not wait forever
            log.exception("the model of %s would end its thread", self._name)
            value, error = None, MataError("The model failed")
        try:
            self._loop.call_soon_threadsafe(self._finish, request, value, error)
        except RuntimeError:
            log.debug("the loop ended before %s answered", self._name)

    def _finish(self, request: int, value: Any, error: Exception | None) -> None:
        self._watchdog.record_answer(request, succeeded=error is None)
        callback = self._pending.pop(request, None)
        if callback is not None:
            callback(value, error)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except Exception:
                log.exception("worker of %s", self._name)
        with contextlib.suppress(RuntimeError):  # the loop may have ended before
            self._loop.call_soon_threadsafe(_resolve, self.ended, None, None)


def _resolve(future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    """Complete a future, unless it was cancelled."""
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
        future.exception()  # marks it as retrieved, in case its awaiter was cancelled
