"""Pending webhook deliveries: written in the transaction that ends a job, so none is lost."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from mataserver_jobs.table import DELIVERIES, WEBHOOKS
from mataserver_jobs.views import JobView

if TYPE_CHECKING:
    from mataserver_database import Connection, Database
    from mataserver_jobs.record import Record


async def put(database: Database, connection: Connection, record: Record) -> None:
    """Queue a delivery of a job's end to its owner's webhooks.

    It is due at once, by the clock of the database. The job as it stands is kept: it may be
    removed, or run again, before they hear of it.
    """
    owned = sa.select(WEBHOOKS.c.id).where(WEBHOOKS.c.owner == record.owner)
    # One that was removed before the delivery is stored would be an error, and the end not stored.
    owned = owned.with_for_update(read=True, key_share=True)
    webhooks = (await connection.scalars(owned)).all()
    if not webhooks:
        return
    now = record.finished_at or 0.0
    event = {
        "type": f"job.{record.state}",
        "timestamp": datetime.fromtimestamp(now, UTC).isoformat(),
        "data": JobView.of(record),
    }
    kept = {
        "owner": record.owner,
        "body": msgspec.json.encode(event).decode(),
        "attempts": 0,
        "created_at": now,
        "waited": 0.0,
    }
    rows = [{"id": str(uuid.uuid4()), "webhook": each, **kept} for each in webhooks]
    await connection.execute(sa.insert(DELIVERIES).values(next_at=database.now()), rows)
