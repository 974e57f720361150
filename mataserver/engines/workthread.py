"""A daemon thread that does one piece of work after the other, and what is still owed of it.

A thread that hangs does not keep the server from ending: it is abandoned.
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
    """Runs functions of one model; ``watchdog`` is told of what is owed and of what was given."""

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
        """The thread's number."""
        return self._thread.ident

    @property
    def busy(self) -> bool:
        """Whether anything is owed."""
        return bool(self._pending)

    def post(self, function: Callable[[], None]) -> None:
        """Have ``function`` run; nobody waits for it."""
        self._queue.put(function)

    def put(self, function: Callable[[], Any], take: Take, *, watched: bool = True) -> None:
        """Have ``function`` run, and ``take`` called on the loop with what it gave or raised."""
        request = next(self._ids)
        self._pending[request] = take
        if watched:
            self._watchdog.expect(request)
        self._queue.put(functools.partial(self._perform, request, function))

    def submit(self, function: Callable[[], Any], *, watched: bool = True) -> asyncio.Future[Any]:
        """Have ``function`` run; return the future of what it gives or raises."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.put(function, functools.partial(_settle, future), watched=watched)
        return future

    def fail_current(self, error: MataError) -> None:
        """Answer what runs now with ``error``, if anybody waits for it."""
        take = self._pending.pop(self._current, None)
        if take is not None:
            take(None, error)

    def fail_all(self, error: MataError) -> None:
        """Answer everything that is owed with ``error``."""
        pending, self._pending = list(self._pending.values()), {}
        for take in pending:
            take(None, error)

    def end(self) -> None:
        """End the thread after what it was given."""
        self._queue.put(None)

    def _perform(self, request: int, function: Callable[[], Any]) -> None:
        """Run one piece of work, in the thread."""
        self._current = request
        try:
            value, error = function(), None
        except Exception as caught:  # noqa: BLE001 - the worker's edge: it goes to whoever waits
            value, error = None, caught
        except BaseException:  # SystemExit of a model: whoever waits must not wait for ever
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
    """Give what the thread gave to whoever still waits for it."""
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
        future.exception()  # whoever stopped waiting must not cause a warning
