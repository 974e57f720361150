"""A daemon thread that runs functions one by one, and the record of those pending.

A hung thread does not keep the server from exiting: it is abandoned.
"""

from __future__ import annotations

import asyncio
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

    Take = Callable[[Any, Exception | None], None]

log = logging.getLogger("mataserver.thread")


class WorkThread:
    """Runs functions of one model; ``watchdog`` observes their start and end."""

    def __init__(self, name: str, watchdog: Watchdog) -> None:
        self._name = name
        self._watchdog = watchdog
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._ids = itertools.count(1)
        self._current = 0
        self._pending: dict[int, Take] = {}
        self._thread = threading.Thread(target=self._run, name=f"model {name}", daemon=True)
        self._thread.start()

    @property
    def ident(self) -> int | None:
        """The thread's identifier."""
        return self._thread.ident

    @property
    def busy(self) -> bool:
        """Whether anything is pending."""
        return bool(self._pending)

    def post(self, function: Callable[[], None]) -> None:
        """Run ``function`` in the thread and discard its result."""
        self._queue.put(function)

    def put(self, function: Callable[[], Any], take: Take, *, watched: bool = True) -> None:
        """Run ``function`` in the thread; pass its result or exception to ``take`` on the loop."""
        request = next(self._ids)
        self._pending[request] = take
        if watched:
            self._watchdog.expect(request)
        self._queue.put(functools.partial(self._perform, request, function))

    def submit(self, function: Callable[[], Any], *, watched: bool = True) -> asyncio.Future[Any]:
        """Run ``function`` in the thread; return a future of its result."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.put(function, functools.partial(_settle, future), watched=watched)
        return future

    def fail_current(self, error: MataError) -> None:
        """Fail what runs now with ``error``, if it is still pending."""
        take = self._pending.pop(self._current, None)
        if take is not None:
            take(None, error)

    def fail_all(self, error: MataError) -> None:
        """Fail everything pending with ``error``."""
        pending, self._pending = list(self._pending.values()), {}
        for take in pending:
            take(None, error)

    def end(self) -> None:
        """End the thread after the queued functions."""
        self._queue.put(None)

    def _perform(self, request: int, function: Callable[[], Any]) -> None:
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
            self._loop.call_soon_threadsafe(self._answered, request, value, error)
        except RuntimeError:
            log.debug("the loop ended before %s answered", self._name)

    def _answered(self, request: int, value: Any, error: Exception | None) -> None:
        self._watchdog.answered(request, well=error is None)
        take = self._pending.pop(request, None)
        if take is not None:
            take(value, error)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except Exception:
                log.exception("worker of %s", self._name)


def _settle(future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    """Complete a future, unless its awaiter has gone."""
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
        future.exception()  # marks it as retrieved, in case its awaiter was cancelled
