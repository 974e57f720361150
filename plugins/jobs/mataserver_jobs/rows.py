"""Rows of the table of jobs, and the updates that a claim permits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from mataserver import NotFound
from mataserver_jobs.record import Record
from mataserver_jobs.table import JOBS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver_database import Connection

OPEN = ("spec", "result")
"""The columns of JSON, whose size a kind of job decides: who needs them not leaves them out."""
QUEUED_AGAIN: dict[str, Any] = {
    "state": "queued",
    "stage": "queued",
    "holder": None,
    "lease_until": None,
}


def claimed_update(record: Record, values: Mapping[str, Any]) -> Any:
    """Return an update that changes a job only while a claim counts."""
    mine = (JOBS.c.id == record.id, JOBS.c.claim == record.claim, JOBS.c.state == "running")
    return sa.update(JOBS).where(*mine).values(**values).returning(*JOBS.c)


async def locked(connection: Connection, job: str) -> Record:
    """Return a job, locked until the transaction ends. Raises ``NotFound``."""
    query = sa.select(JOBS).where(JOBS.c.id == job).with_for_update()
    row = (await connection.execute(query)).mappings().first()
    if row is None:
        raise NotFound(f"Job not found: {job[:64]}")
    return record_of(row)


def record_of(row: Any) -> Record:
    """Return the job of a row; of ``OPEN`` what was not read is None."""
    values: dict[str, Any] = {**dict.fromkeys(OPEN), **row}
    for name in OPEN:
        if values[name] is not None:
            values[name] = msgspec.json.decode(values[name])
    return Record(**values)


def row_of(record: Record) -> dict[str, Any]:
    """Return the row of a job."""
    values = msgspec.structs.asdict(record)
    return {**values, **{name: json_of(values[name]) for name in OPEN}}


def sanitize_text(text: str) -> str:
    """Return a text that every database takes: PostgreSQL's has no NUL, and none half a pair."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def json_of(value: Any) -> str | None:
    """Return a value as it is kept."""
    return None if value is None else msgspec.json.encode(value).decode()
