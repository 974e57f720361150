"""For how long servers have run on a database: what is kept for some days goes by it.

The time of day may be wrong: a machine without a battery boots in 1970, and is set decades ahead
once it reaches a time server. By it all that is kept would be over at once, or never. Here only
time counts through which a server lived; while none runs, nothing grows older.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mataserver import MataError
from mataserver_jobs.table import LIVED

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_database import Database

PERIOD_SECONDS = 60.0
"""How often it is written down: what a server that is killed loses of it at most."""
_FIRST_SECONDS = 2.0
"""When it is written down first; then after twice as long each time, up to the period. So a server
that is killed has written down a third of its life at least: jobs grow old also where each server
is killed within the first minute."""
_ROUNDING = 1.0
"""Seconds that are not worth a transaction."""


class LivedTime:
    """Seconds on a scale that begins with the Unix time at which the table was made.

    Each server adds what it lived through by its own ``clock``, in seconds that are never set, to
    what it read last; of servers that run together the furthest counts, so that time passes once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read, self._read_at = 0.0, clock()
        self._stopping = asyncio.Event()

    def now(self) -> float:
        """Return the seconds, at most two periods after the last ``advance``.

        A server that stood still, or did not reach its database, let nobody use what it kept.
        """
        return self._read + min(self._clock() - self._read_at, 2 * PERIOD_SECONDS)

    async def begin(self, database: Database) -> None:
        """Take up what was written last. Raises ``MataError``."""
        async with database.read() as connection:
            read = await connection.scalar(sa.select(LIVED.c.seconds))
        self._set(float(read or 0.0))

    async def advance(self, database: Database) -> None:
        """Write down what has passed, and take up what others have. Raises ``MataError``."""
        mine = self.now()
        async with database.read() as connection:
            written = float(await connection.scalar(sa.select(LIVED.c.seconds)) or 0.0)
        if mine > written + _ROUNDING:
            async with database.begin() as connection:
                behind = LIVED.c.seconds < mine
                await connection.execute(sa.update(LIVED).where(behind).values(seconds=mine))
        self._set(max(mine, written))

    async def run(self, database: Database) -> None:
        """Advance now and then, and at the end, until ``close``."""
        pause = _FIRST_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(2 * pause, PERIOD_SECONDS)
            with contextlib.suppress(MataError):  # a database that is busy: the next time
                await self.advance(database)
            if self._stopping.is_set():
                return

    def close(self) -> None:
        """Stop advancing."""
        self._stopping.set()

    def _set(self, seconds: float) -> None:
        self._read, self._read_at = seconds, self._clock()
