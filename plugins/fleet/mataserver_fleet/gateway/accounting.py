"""Writes usage counts to the database, and counts the live gateways."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import sqlalchemy as sa

from mataserver import Unavailable
from mataserver_database import LeaseWatch, by_code_point, finish
from mataserver_fleet.gateway.presence import PresenceFile
from mataserver_fleet.gateway.usage import DAY
from mataserver_fleet.tables import FACTS, USAGE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mataserver_database import Connection
    from mataserver_fleet.gateway.gateway import Gateway
    from mataserver_fleet.gateway.usage import Subject, UsageCount
    from mataserver_fleet.store import Store

ALIVE_SECONDS = 30.0
"""Seconds after its last heartbeat for which a gateway counts as alive."""
SOON_SECONDS = 0.1
"""Seconds between two times that are sooner than usual, since a quota is nearly used up; at most a
tenth of the time is spent on them, where the database is slow."""
_SOON_SHARE = 0.1
_NAME, _WRITTEN = "gateway-", "written-"
"""What the names begin with of facts: a gateway's heartbeat, and the number of its last batch."""
_KEPT_SECONDS = 30 * DAY
"""Seconds for which the last batch's number of a gateway that was killed is kept."""
_SUMS = ("requests", "failed", "bytes_in", "bytes_out")

log = logging.getLogger("mataserver.plugin.fleet")


class _Batch(NamedTuple):
    """Counts that are written together, under a number that is the gateway's next each time."""

    number: int
    counts: Mapping[tuple[int, Subject], UsageCount]


class Accounting:
    """Settles the gateway's counts with the database every ``interval`` seconds.

    It does so sooner where the gateway grants what other gateways may have granted meanwhile.

    folder: where gateways on a SQLite database show that they run. Nothing is written while no
            requests arrive, and nothing read by a gateway that is alone.
    """

    def __init__(self, store: Store, gateway: Gateway, interval: float, folder: Path) -> None:
        self._store = store
        self._gateway = gateway
        self._interval = interval
        identity = secrets.token_hex(12)
        self._name, self._written = _NAME + identity, _WRITTEN + identity
        self._batch: _Batch | None = None
        self._batches = 0
        self._watch = LeaseWatch(ALIVE_SECONDS)
        is_sqlite = store.database.dialect == "sqlite"
        self._presence = PresenceFile(folder, self._name) if is_sqlite else None
        self._gateways = 0
        self._lock = asyncio.Lock()

    async def begin(self) -> None:
        """Show the other gateways that this one runs, and settle."""
        if self._presence is not None:
            await asyncio.to_thread(self._presence.begin)
        await self.settle()

    async def run(self) -> None:
        """Settle again and again, and no sooner than usual while the database is away."""
        clock, soon = asyncio.get_running_loop().time, self._gateway.limits.settle_soon
        while True:
            begun = clock()
            is_settled = await self.settle()
            earliest = max(SOON_SECONDS, (clock() - begun) / _SOON_SHARE)
            gap = min(self._interval, earliest) if is_settled else self._interval
            await asyncio.sleep(gap)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval - gap):
                    await soon.wait()

    async def settle(self) -> bool:
        """Write the pending counts, and read what other gateways have counted today.

        Returns False where the database does not answer.
        """
        async with self._lock:
            self._gateway.limits.settle_soon.clear()
            gateways = 0
            # Before anything is taken: it may be cancelled, or there may be no thread for it.
            if self._presence is not None:
                gateways = 1 + await asyncio.to_thread(self._presence.others)
                pending = self._batch is not None or self._gateway.usage.is_pending
                if gateways == self._gateways == 1 and not pending:
                    return True
            return await finish(self._settle(gateways))

    async def _settle(self, gateways: int) -> bool:
        """Settle to the end.

        A batch whose writing fails is written anew the next time, before what came since: the
        database may have it, and have lost the word of that.
        """
        is_anew = self._batch is not None
        try:
            await self._settle_batch(gateways)
            if is_anew and self._gateway.usage.is_pending:
                await self._settle_batch(gateways)
        except Unavailable:
            return False
        return True

    async def _settle_batch(self, gateways: int) -> None:
        if self._batch is None and (taken := self._gateway.usage.take()):
            self._batches += 1
            self._batch = _Batch(self._batches, taken)
        today = self._gateway.limits.today()
        batch = self._batch
        gateways, used = await self._write(batch, today, gateways)
        self._batch = None
        own: Counter[str] = Counter()
        for (day, subject), count in batch.counts.items() if batch is not None else ():
            own[subject.consumer] += count.requests if day == today else 0
        self._gateway.limits.settle(used, own, today, gateways)
        self._gateways = gateways

    async def close(self) -> None:
        """Write the last counts and unregister this gateway."""
        try:
            # Without a look at the others: there may be no thread for it.
            gateways = 0 if self._presence is None else max(1, self._gateways)
            async with self._lock:
                is_settled = await finish(self._settle(gateways))
            if self._presence is None or self._batches:
                await finish(self._unregister())
        except Unavailable:
            is_settled = False
        finally:
            self.withdraw()
        if not is_settled:
            log.warning("the latest requests could not be counted: the database does not answer")

    def withdraw(self) -> None:
        """Let gateways on SQLite know that this one does not run."""
        if self._presence is not None:
            self._presence.close()

    async def _write(
        self, batch: _Batch | None, today: int, gateways: int
    ) -> tuple[int, dict[str, int]]:
        """Add counts; return how many gateways live, and today's requests by consumer.

        ``gateways`` is 0 where only the database tells.
        """
        now, database = self._store.clock(), self._store.database
        writes = batch is not None or not gateways
        async with database.begin() if writes else database.read() as connection:
            if batch is not None and await self._is_new(connection, batch.number, now):
                # In one order: two gateways that update the same rows would wait for one another.
                counted = sorted(batch.counts.items(), key=lambda each: each[0])
                values = [_row(day, subject, count) for (day, subject), count in counted]
                await connection.execute(self._addition(), values)
            gateways = gateways or await self._count_gateways(connection, now)
            sums = (
                sa.select(USAGE.c.consumer, sa.func.sum(USAGE.c.requests))
                .where(USAGE.c.day == today)
                .group_by(USAGE.c.consumer)
            )
            used = {name: int(number) for name, number in await connection.execute(sums)}
        return gateways, used

    async def _is_new(self, connection: Connection, number: int, now: float) -> bool:
        """Note that a batch is written; return False for one that was.

        The transaction that wrote it may still be at work, if its connection was lost: it is waited
        for.
        """
        await self._store.database.serialize(connection, self._written)
        own, values = FACTS.c.name == self._written, {"value": str(number), "until": now}
        known = await connection.scalar(sa.select(FACTS.c.value).where(own))
        if known == values["value"]:
            return False
        if known is not None:
            await connection.execute(sa.update(FACTS).where(own).values(**values))
            return True
        left = (FACTS.c.name.startswith(_WRITTEN), FACTS.c.until < now - _KEPT_SECONDS)
        await connection.execute(sa.delete(FACTS).where(*left))
        await connection.execute(sa.insert(FACTS).values(name=self._written, **values))
        return True

    def _addition(self) -> Any:
        """Return what adds rows to those that are there, all at once.

        A row at a time, a thousand took seconds, for which others waited.
        """
        new = _insert(self._store.database.dialect)
        sums = {name: USAGE.c[name] + new.excluded[name] for name in _SUMS}
        keys = ["day", "consumer", "application", "model"]
        return new.on_conflict_do_update(index_elements=keys, set_=sums)

    async def _count_gateways(self, connection: Connection, now: float) -> int:
        """Renew this gateway's heartbeat; return the number of live gateways."""
        values = {"value": "", "until": now + ALIVE_SECONDS}
        own = sa.update(FACTS).where(FACTS.c.name == self._name).values(**values)
        if not (await connection.execute(own)).rowcount:
            await connection.execute(sa.insert(FACTS).values(name=self._name, **values))
        beats = sa.select(FACTS.c.name, FACTS.c.until).where(FACTS.c.name.startswith(_NAME))
        found: dict[str, float] = {row.name: row.until for row in await connection.execute(beats)}
        gone = self._watch.expired(found) - {self._name}
        if gone:
            await connection.execute(sa.delete(FACTS).where(FACTS.c.name.in_(gone)))
        return len(found.keys() - gone)

    async def _unregister(self) -> None:
        names = [self._name] if self._batch is not None else [self._name, self._written]
        async with self._store.database.begin() as connection:
            await connection.execute(sa.delete(FACTS).where(FACTS.c.name.in_(names)))


def _row(day: int, subject: Subject, count: UsageCount) -> dict[str, Any]:
    return {"day": day, **subject._asdict(), **{name: getattr(count, name) for name in _SUMS}}


def _insert(dialect: str) -> Any:
    """Return an insertion into the usage that knows what to do where the row is there already."""
    # Each dialect brings some twenty modules, and a server has one.
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(USAGE)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(USAGE)


async def rows(connection: Connection, since: int, until: int) -> list[sa.RowMapping]:
    """Return what was counted on some days, both of them included, by day and subject."""
    query = sa.select(USAGE).where(USAGE.c.day >= since, USAGE.c.day <= until)
    subject = map(by_code_point, (USAGE.c.consumer, USAGE.c.application, USAGE.c.model))
    return list((await connection.execute(query.order_by(USAGE.c.day, *subject))).mappings())


def day_of(text: str) -> int:
    """Return the number of a day ``YYYY-MM-DD``. Raises ``ValueError``."""
    return (msgspec.convert(text, date) - date(1970, 1, 1)).days


def date_of(day: int) -> str:
    """Return a day as ``YYYY-MM-DD``."""
    return time.strftime("%Y-%m-%d", time.gmtime(day * DAY))
