"""Finds the job that a request names, and its results."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import Conflict, NotFound
from mataserver_jobs.routes import owner_of
from mataserver_reconstruct import kind
from mataserver_reconstruct.files import RESULT

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver import Context
    from mataserver_jobs.desk import Desk
    from mataserver_jobs.record import Record


class JobLookup:
    """Finds the jobs that requests name. Other owners' jobs are not found."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    @property
    def _desk(self) -> Desk:
        desk: Desk = self._ctx.peer("jobs").desk
        return desk

    async def job(self, request: web.Request) -> Record:
        """Return the job. Raises ``NotFound``."""
        record = await self._desk.store.get(request.match_info["id"], owner_of(request))
        if record.kind != kind.NAME:
            raise NotFound(f"Job not found: {record.id}")
        return record

    async def ended_job(self, request: web.Request) -> tuple[Record, dict[str, Any]]:
        """Return an ended job with its figures.

        Raises ``NotFound``, and ``Conflict`` for one that has not ended, or has no model.
        """
        record = await self.job(request)
        if not record.ended:
            raise Conflict(f"The job is not complete: it is {record.stage}")
        figures = await self.figures(record)
        if not figures:
            if record.state == "failed":
                raise Conflict(f"The job failed: {record.error or record.message}")
            raise Conflict("The job was cancelled before it had a model")
        return record, figures

    async def figures(self, record: Record) -> dict[str, Any]:
        """Return the figures of a job; of a stopped one the partial figures, {} of others."""
        if record.state == "done":
            return dict(record.result)
        if record.state == "cancelled":
            return dict(await self._ctx.run_blocking(self._partial, record.id))
        return {}

    def _partial(self, job: str) -> dict[str, Any]:
        with contextlib.suppress(NotFound, OSError):  # no partial result, or just deleted
            found = self._desk.storage.file(job, RESULT)
            return dict(msgspec.json.decode(found.path.read_bytes()))
        return {}
