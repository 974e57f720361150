"""Keeps the gateway at what the database says: at once after a change here, soon after another's.

While the database is away the gateway goes on with what it knows.
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

POLL = 5.0
"""Seconds after which the version is looked at when nobody has told of a change."""
AGAIN = 0.5
"""Seconds until a reading that failed is tried anew."""

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
        self._asked = self._done = 0
        self._version: str | None = None
        self._turn = asyncio.Lock()
        self._told = asyncio.Event()
        self._behind: float | None = None

    @property
    def problem(self) -> str:
        """Why the gateway may be behind the database; empty while it is not."""
        if self._behind is None:
            return ""
        seconds = time.monotonic() - self._behind
        return f"The database does not answer: applications are those of {seconds:.0f} s ago"

    async def begin(self) -> None:
        """Read for the first time, and follow from then on. Raises ``Unavailable``."""
        await self._read()
        self._store.followers.append(self.changed)
        self._store.database.watch(CHANNEL, self._told.set)

    def end(self) -> None:
        """Follow no more."""
        self._store.followers.remove(self.changed)

    async def changed(self) -> None:
        """Read what was committed just now; who made the change goes on when it is in force."""
        self._asked += 1
        wanted = self._asked
        async with self._turn:
            if self._done < wanted:
                # Several that wait are served by one reading.
                covered = self._asked
                if await self._try():
                    self._done = covered

    async def serve_own(self, own: Target) -> None:
        """Have routes to this server's own models lead to it."""
        self._own = own
        await self.changed()

    async def watch(self) -> None:
        """Read again whenever another process has changed something."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL if self._behind is None else AGAIN):
                    await self._told.wait()
            self._told.clear()
            if await self._stale():
                async with self._turn:
                    await self._try()

    async def _stale(self) -> bool:
        try:
            version = await finish(self._store.version())
        except Unavailable:
            self._note_failure()
            return False
        stale = version != self._version
        if not stale:
            self._behind = None
        return stale

    async def _try(self) -> bool:
        try:
            await self._read()
        except Unavailable:
            self._note_failure()
            return False
        return True

    def _note_failure(self) -> None:
        if self._behind is None:
            self._behind = time.monotonic()
            log.warning("the gateway goes on with what it knows: the database does not answer")

    async def _read(self) -> None:
        version, tables = await finish(self._tables())
        given = (tables, self._timeout, self._own, self._peers)
        made = await asyncio.to_thread(reading.snapshot, *given)
        self._follow(made)
        self._version, self._behind = version, None

    async def _tables(self) -> tuple[str | None, reading.Tables]:
        async with self._store.read() as connection:
            version = await self._store.version_of(connection)
            return version, await reading.read(connection)
