"""Updates the gateway from the database: immediately after a change here, soon after another's.

While the database is away the gateway continues with its last snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from mataserver import Unavailable
from mataserver_database import finish
from mataserver_fleet.gateway import reading
from mataserver_fleet.tables import CHANNEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_fleet.gateway.snapshot import Snapshot, Target
    from mataserver_fleet.store import Store

POLL_SECONDS = 5.0
"""Seconds after which the version is checked without a notification."""
RETRY_SECONDS = 0.5
"""Seconds until a failed read is retried."""

log = logging.getLogger("mataserver.plugin.fleet")


class SnapshotUpdater:
    """Reads the tables and hands the snapshot to ``follow``. ``timeout`` is in seconds.

    peers: other mataservers.

    Snapshots are made beside the event loop: one of 100,000 consumers takes its time.
    """

    def __init__(
        self,
        store: Store,
        follow: Callable[[Snapshot], None],
        timeout: float,
        peers: tuple[Target, ...] = (),
    ) -> None:
        self._store = store
        self._peers = peers
        self._follow = follow
        self._timeout = timeout
        self._own: Target | None = None
        self._requested = self._applied = 0
        self._version: str | None = None
        self._lock = asyncio.Lock()
        self._change_event = asyncio.Event()
        self._stale_since: float | None = None

    @property
    def problem(self) -> str:
        """Why the gateway may be behind the database; empty while it is not."""
        if self._stale_since is None:
            return ""
        seconds = time.monotonic() - self._stale_since
        return f"The database does not answer: applications are those of {seconds:.0f} s ago"

    async def start(self) -> None:
        """Read for the first time, and follow from then on. Raises ``Unavailable``."""
        await self._read()
        self._store.after_change.append(self.refresh)
        self._store.database.watch(CHANNEL, self._change_event.set)

    def stop(self) -> None:
        """Stop following changes."""
        self._store.after_change.remove(self.refresh)

    async def refresh(self) -> None:
        """Read the latest commit; return once it is in force."""
        self._requested += 1
        wanted = self._requested
        async with self._lock:
            if self._applied < wanted:
                # Several that wait are served by one reading.
                covered = self._requested
                if await self._try_read():
                    self._applied = covered

    async def serve_own(self, own: Target) -> None:
        """Have routes to this server's own models lead to it."""
        self._own = own
        await self.refresh()

    async def watch(self) -> None:
        """Read again whenever another process has changed something."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    POLL_SECONDS if self._stale_since is None else RETRY_SECONDS
                ):
                    await self._change_event.wait()
            self._change_event.clear()
            if await self._is_stale():
                async with self._lock:
                    await self._try_read()

    async def _is_stale(self) -> bool:
        try:
            version = await finish(self._store.version())
        except Unavailable as error:
            self._note_failure(error.detail)
            return False
        stale = version != self._version
        if not stale:
            self._stale_since = None
        return stale

    async def _try_read(self) -> bool:
        try:
            await self._read()
        except (Unavailable, MemoryError) as error:
            self._note_failure(getattr(error, "detail", "there is no memory to read what changed"))
            return False
        return True

    def _note_failure(self, reason: str) -> None:
        if self._stale_since is None:
            self._stale_since = time.monotonic()
            log.warning("the gateway continues with what it knows: %s", reason)

    async def _read(self) -> None:
        version, tables = await finish(self._read_tables())
        given = (tables, self._timeout, self._own, self._peers)
        try:
            made = await asyncio.to_thread(reading.snapshot, *given)
        except RuntimeError:  # no thread; another fault is raised again
            made = reading.snapshot(*given)
        self._follow(made)
        self._version, self._stale_since = version, None

    async def _read_tables(self) -> tuple[str | None, reading.Tables]:
        async with self._store.read() as connection:
            version = await self._store.version_of(connection)
            return version, await reading.read(connection)
