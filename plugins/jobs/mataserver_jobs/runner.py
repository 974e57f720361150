"""Takes jobs and has them run, each in a process of its own: on this machine, or on a node.

The table is the truth: a runner claims a job, renews its lease by a timer, writes down what the
process tells and how it ended. It holds nothing that a restart would lose.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import TYPE_CHECKING, Any

from mataserver import MataError, OutOfMemory
from mataserver_database import LeaseWatch
from mataserver_jobs import lease_guard, process_identity
from mataserver_jobs.attempt import RENEW_SECONDS
from mataserver_jobs.leases import LEASE_SECONDS
from mataserver_jobs.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from mataserver_jobs.job_tokens import JobTokens
    from mataserver_jobs.kinds import JobKind
    from mataserver_jobs.record import Record
    from mataserver_jobs.store import Store

log = logging.getLogger("mataserver.plugin.jobs")


@contextlib.asynccontextmanager
async def _unbounded(_size: int) -> AsyncIterator[None]:
    """Stand for uncounted memory."""
    yield


class LocalRunner:
    """Runs at most ``slots`` jobs at once below ``folder``.

    run_process:     starts a process.
    tokens:          give an attempt of a job its access to the server.
    has_room:        whether the disk has room for the work of another job.
    transfers_files: processes cannot reach ``folder``: its files travel with them.
    reserve:         counts so many bytes of memory until its context ends; raises ``OutOfMemory``.
    """

    def __init__(  # noqa: PLR0913 - each is another part of the server that jobs need
        self,
        store: Store,
        kinds: Mapping[str, JobKind],
        folder: Path,
        run_process: Callable[..., Any],
        *,
        slots: int = 1,
        tokens: JobTokens | None = None,
        has_room: Callable[[], bool] = lambda: True,
        transfers_files: bool = False,
        reserve: Callable[[int], AbstractAsyncContextManager[None]] = _unbounded,
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._slots = slots
        self._has_room = has_room
        self._reserve = reserve
        self._holder = process_identity.current()
        self._lease_watch = LeaseWatch(LEASE_SECONDS)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hindrance = ""
        self._supervisor = Supervisor(
            store,
            kinds,
            folder,
            run_process,
            self._stopping,
            tokens=tokens,
            transfers_files=transfers_files,
        )

    def wake(self) -> None:
        """Look for work, and for cancellations, now: something changed."""
        self._wake.set()
        self._supervisor.wake()

    async def run(self) -> None:
        """Claim and run jobs until ``close``. Jobs of servers that are gone come first."""
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                await self._recover()
                await self._claim()
                if self._hindrance == "database":  # not before: some can be read, not written
                    self._hindrance = ""
            except MataError as error:  # a database that does not answer now does later
                self._note_hindrance("database", error.detail)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_SECONDS):
                    await self._wake.wait()

    async def close(self) -> None:
        """Stop every job so that the next server continues it; no attempt is counted."""
        self._stopping.set()
        self._wake.set()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _recover(self) -> None:
        leases = {
            lease.job: lease
            for lease in await self._store.leases()
            if lease.job not in self._running  # those are worked on, also where none was renewed
        }
        over = self._lease_watch.expired({job: lease[:3] for job, lease in leases.items()})
        lost = [
            lease
            for job, lease in leases.items()
            if job in over or (lease.holder and process_identity.is_dead(lease.holder))
        ]
        if lost and (count := await self._store.recover(lost)):
            log.warning("%d jobs of lost servers are queued again", count)

    async def _claim(self) -> None:
        while len(self._running) < self._slots and not self._stopping.is_set():
            kind = await self._store.next_kind(list(self._kinds))
            if kind is None:
                self._hindrance = ""
                return
            if not await asyncio.to_thread(self._has_room):
                self._note_hindrance("disk", "the disk is nearly full")
                return
            if not await self._begin(kind):
                return

    def _note_hindrance(self, what: str, detail: str) -> None:
        """Log why waiting jobs are not taken, once: they are looked at every few seconds."""
        if self._hindrance != what:
            self._hindrance = what
            log.warning("no work is taken now: %s", detail)

    async def _begin(self, kind: str) -> bool:
        """Take a job of a kind and run it, where there is memory for it; else return False."""
        async with contextlib.AsyncExitStack() as reserved:
            try:
                size = self._kinds[kind].memory_mb * 1_000_000
                await reserved.enter_async_context(self._reserve(size))
            except OutOfMemory as error:
                self._note_hindrance("memory", error.detail)
                return False
            claimed = lease_guard.now()
            record = await self._store.claim(self._holder, [kind])
            if record is not None:
                self._hindrance = ""
                work = self._run_supervised(record, claimed, reserved.pop_all())
                task = asyncio.get_running_loop().create_task(work)
                self._running[record.id] = task
                task.add_done_callback(functools.partial(self._on_ended, record.id))
        return True

    def _on_ended(self, job: str, _task: asyncio.Task[None]) -> None:
        self._running.pop(job, None)
        self._wake.set()

    async def _run_supervised(
        self, record: Record, claimed: float, reserved: contextlib.AsyncExitStack
    ) -> None:
        async with reserved:
            await self._supervisor.run(record, claimed)
