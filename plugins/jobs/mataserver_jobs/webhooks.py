"""Webhooks in the database, and the pending deliveries of each.

A delivery is held for a while by the server that makes it, as a job is by its lease: two servers
do not send it at once, and one that was killed leaves it to the next. What is due is judged by the
database's clock: those of two servers may differ. A webhook that does not answer is asked less and
less often; all that it is to be told waits with it.
"""

from __future__ import annotations

import base64
import secrets
import time
import uuid
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa
from msgspec import Struct

from mataserver import Conflict, NotFound
from mataserver_jobs.record import is_id
from mataserver_jobs.table import CHANNEL, DELIVERIES, SCHEMA, WEBHOOKS

if TYPE_CHECKING:
    from collections.abc import Collection

    from mataserver_database import Database

SECRET_PREFIX = "whsec_"  # noqa: S105 - what such a secret begins with
SECRET_BYTES = 32
MAX_OF_ONE = 20
"""Webhooks of one owner."""
LEASE_SECONDS = 60.0
"""How long a delivery is left to the server that took it; longer than any answer is awaited."""
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 7_200.0
GIVE_UP_SECONDS = 86_400.0


class Webhook(Struct, frozen=True, kw_only=True):
    """An address that is told when a job of its owner ends.

    ``last_at`` is when it was asked last, in Unix seconds, ``last_error`` why that failed.
    """

    id: str
    owner: str
    url: str
    created_at: float
    last_at: float | None = None
    last_error: str | None = None


class MadeWebhook(Webhook, frozen=True, kw_only=True):
    """A new webhook with what its deliveries are signed with, which is shown this once."""

    secret: str


class Delivery(Struct, frozen=True, kw_only=True):
    """What a webhook is to be told: ``body``, JSON. ``attempts`` counts this one.

    ``taken_at`` is when a server took it, in Unix seconds by the clock of the database. ``waited``
    are the seconds of all pauses that it, and what was before it, was put off for.
    """

    id: str
    webhook: str
    owner: str
    body: str
    attempts: int
    taken_at: float
    waited: float
    url: str
    secret: str


class Webhooks:
    """Webhooks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # asked by clients

    async def add(self, owner: str, url: str) -> MadeWebhook:
        """Make a webhook. Raises ``Conflict`` for more than ``MAX_OF_ONE`` of one owner."""
        random = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        made = MadeWebhook(
            id=str(uuid.uuid4()),
            owner=owner,
            url=url,
            secret=SECRET_PREFIX + random,
            created_at=time.time(),
        )
        counting = sa.select(sa.func.count()).where(WEBHOOKS.c.owner == owner)
        async with self._database.begin() as connection:
            await self._database.serialize(connection, f"webhooks of {owner}")
            if int(await connection.scalar(counting) or 0) >= MAX_OF_ONE:
                raise Conflict(f"There are {MAX_OF_ONE} webhooks already, which is the most")
            await connection.execute(sa.insert(WEBHOOKS).values(**msgspec.structs.asdict(made)))
        return made

    async def all(self, owner: str | None = None) -> list[Webhook]:
        """Return the webhooks of an owner, or of all, oldest first."""
        query = sa.select(*_SHOWN).order_by(WEBHOOKS.c.created_at, WEBHOOKS.c.id)
        if owner is not None:
            query = query.where(WEBHOOKS.c.owner == owner)
        async with self._database.read() as connection:
            return [Webhook(**row) for row in (await connection.execute(query)).mappings()]

    async def remove(self, webhook: str, owner: str | None = None) -> None:
        """Remove a webhook and its pending deliveries. Raises ``NotFound``."""
        wanted = [WEBHOOKS.c.id == webhook]
        if owner is not None:
            wanted.append(WEBHOOKS.c.owner == owner)
        count = 0
        if is_id(webhook):
            async with self._database.begin() as connection:
                count = (await connection.execute(sa.delete(WEBHOOKS).where(*wanted))).rowcount
        if not count:
            raise NotFound("Webhook not found")

    # asked by the courier

    async def wait(self) -> float | None:
        """Return in how many seconds the next delivery is due; None when there is none.

        One that is due later than any pause is long is due now: the clock was set back.
        """
        due_in = sa.func.min(DELIVERIES.c.next_at) - self._database.now()
        async with self._database.read() as connection:
            left = await connection.scalar(sa.select(due_in))
        if left is None:
            return None
        return 0.0 if left > 2 * LONGEST_PAUSE else max(0.0, left)

    async def claim(self, busy: Collection[str] = ()) -> Delivery | None:
        """Take the delivery that is due longest, of no ``busy`` owner; None when there is none.

        Raises ``NewerSchemaError`` where the webhooks are those of newer servers.
        """
        now = self._database.now()
        due = sa.or_(DELIVERIES.c.next_at <= now, DELIVERIES.c.next_at > now + 2 * LONGEST_PAUSE)
        first = (
            sa.select(DELIVERIES.c.id)
            .where(due, DELIVERIES.c.owner.not_in(busy))
            .order_by(DELIVERIES.c.next_at, DELIVERIES.c.waited.desc(), DELIVERIES.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        held = {"next_at": now + LEASE_SECONDS, "attempts": DELIVERIES.c.attempts + 1}
        update = sa.update(DELIVERIES).where(DELIVERIES.c.id == first).values(**held)
        async with self._database.begin() as connection:
            await self._database.check_version(connection, SCHEMA)
            taken = update.returning(*DELIVERIES.c)
            row = (await connection.execute(taken)).mappings().first()
            if row is None:
                return None
            where = sa.select(WEBHOOKS.c.url, WEBHOOKS.c.secret)
            where = where.where(WEBHOOKS.c.id == row["webhook"])
            known = (await connection.execute(where)).mappings().one()
        kept = {name: row[name] for name in row.keys() - {"next_at", "created_at"}}
        return Delivery(**kept, **known, taken_at=row["next_at"] - LEASE_SECONDS)

    async def delivered(self, delivery: Delivery) -> None:
        """Note that a webhook knows."""
        await self._finish_delivery(delivery, None, sa.delete(DELIVERIES).where(_matches(delivery)))

    async def failed(self, delivery: Delivery, error: str) -> None:
        """Retry a delivery later, and the webhook's other deliveries after that.

        One that has waited for a day is dropped: of pauses, since the time of day may be set.
        """
        if delivery.waited > GIVE_UP_SECONDS:
            given_up = f"{error}; it was given up after {delivery.attempts} attempts"
            dropped = sa.delete(DELIVERIES).where(_matches(delivery))
            await self._finish_delivery(delivery, given_up, dropped)
            return
        now, put_off = self._database.now(), pause(delivery.attempts)
        at, until, waited = DELIVERIES.c.next_at, now + put_off, DELIVERIES.c.waited
        added = sa.case((at >= until, 0.0), (at > now, until - at), else_=put_off)
        later = {"next_at": sa.case((at > until, at), else_=until), "waited": waited + added}
        others = sa.and_(DELIVERIES.c.webhook == delivery.webhook, ~_matches(delivery))
        again = sa.update(DELIVERIES).where(_matches(delivery))
        await self._finish_delivery(
            delivery,
            error,
            sa.update(DELIVERIES).where(others).values(**later),
            again.values(next_at=until, waited=waited + put_off),
        )

    async def release(self, delivery: Delivery) -> None:
        """Have a delivery made by the next server: this one stops before it knows the result."""
        values = {"next_at": self._database.now(), "attempts": delivery.attempts - 1}
        async with self._database.begin() as connection:
            update = sa.update(DELIVERIES).where(_matches(delivery)).values(**values)
            await connection.execute(update)

    async def _finish_delivery(
        self, delivery: Delivery, error: str | None, *statements: sa.Executable
    ) -> None:
        told = {"last_at": self._database.now(), "last_error": error}
        update = sa.update(WEBHOOKS).where(WEBHOOKS.c.id == delivery.webhook).values(**told)
        async with self._database.begin() as connection:
            await connection.execute(update)  # first, as who removes the webhook locks it first
            for statement in statements:
                await connection.execute(statement)
            await self._database.announce(connection, CHANNEL)


_SHOWN = [WEBHOOKS.c[name] for name in Webhook.__struct_fields__]


def _matches(delivery: Delivery) -> Any:
    return DELIVERIES.c.id == delivery.id


def pause(attempts: int) -> float:
    """Return the seconds until the next attempt after so many."""
    return float(min(LONGEST_PAUSE, FIRST_PAUSE * 3.0 ** (min(attempts, 12) - 1)))
