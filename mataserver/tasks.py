"""Supervised background tasks: a failure is logged, and shown in ``/ready``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from mataserver.errors import shortage_error
from mataserver.plugin_ends import ends_as_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Work = Coroutine[Any, Any, Any]

SHORTAGE_PAUSE = 5.0
"""Seconds after which work that lacked memory, threads or the like is begun again."""

log = logging.getLogger("mataserver.tasks")


class Tasks:
    """The background tasks of one service, cancelled when it ends."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._running: set[asyncio.Task[Any]] = set()
        self._failed: dict[str, str] = {}

    def spawn(self, work: Work | Callable[[], Work], name: str) -> asyncio.Task[Any]:
        """Run a coroutine in the background until it returns or the service ends.

        Its exception is logged, and stays in ``failed`` until a task of that name is spawned again.
        It is not restarted: it must handle recoverable errors itself. A function that returns the
        coroutine is called again if memory, threads, file descriptors or disk space ran out.
        """
        coroutine = self._outlast_shortages(work, name) if callable(work) else work
        self._failed.pop(name, None)
        guarded = _without_exit(coroutine)
        task = asyncio.get_running_loop().create_task(guarded, name=f"{self.owner}: {name}")
        self._running.add(task)
        task.add_done_callback(lambda done: self._done(done, name))
        task.add_done_callback(lambda _: coroutine.close())  # cancelled before it had begun
        return task

    @property
    def failed(self) -> dict[str, str]:
        """The failed tasks with their error types; no details, as ``/ready`` is public."""
        return dict(self._failed)

    async def close(self) -> None:
        """Cancel the running tasks and wait for them."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _outlast_shortages(self, begin: Callable[[], Work], name: str) -> object:
        """Do some work; begin it again, after a pause, as long as the system lacks resources."""
        while True:
            try:
                return await begin()
            except Exception as error:
                detail = _shortage_detail(error)
                if detail is None:
                    raise
                with contextlib.suppress(MemoryError):
                    log.warning(
                        "%s: the task %r begins again in %g s: %s",
                        self.owner, name, SHORTAGE_PAUSE, detail,
                    )  # fmt: skip
            await asyncio.sleep(SHORTAGE_PAUSE)

    def _done(self, task: asyncio.Task[Any], name: str) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._failed[name] = type(error).__name__
            log.error("%s: the task %r failed", self.owner, name, exc_info=error)


async def _without_exit(work: Work) -> object:
    """Do some work; ``sys.exit`` in it is a failure like others, and does not end the server."""
    with ends_as_errors():
        return await work


def _shortage_detail(error: Exception) -> str | None:
    """Return which resource ran out; None for a failure, or a group of some, of another kind."""
    if isinstance(error, ExceptionGroup):
        details = [_shortage_detail(each) for each in error.exceptions]
        return details[0] if all(details) else None
    shortage = shortage_error(error)
    return None if shortage is None else shortage.detail
