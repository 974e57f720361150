"""Finds the job that a request names, and its results."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from mataserver import Conflict, NotFound
from mataserver_jobs.routes import owner_of
from mataserver_reconstruct import kind
from mataserver_reconstruct.files import RESULT

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver import Context
    from mataserver_jobs.desk import Desk
    from mataserver_jobs.record import Record


class _Image(Struct):
    measures: dict[str, float]


class _Cluster(Struct):
    id: int
    name: str
    num_points3D: int  # noqa: N815 - the document's name
    num_images: int
    filename: str | None


class _Figures(Struct):
    """What the answers take from the figures of a job."""

    n_images: int
    n_points: int
    registration_rate: float
    clusters: list[_Cluster]
    images: list[_Image]
    advice: list[str] = []


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

        Raises ``NotFound``, and ``Conflict`` for one that has not ended, or has no model, or one
        of which this version knows nothing.
        """
        record = await self.job(request)
        if not record.ended:
            raise Conflict(f"The job is not complete: it is {record.stage}")
        figures = await self.figures(record)
        if not figures:
            if record.state == "failed":
                raise Conflict(f"The job failed: {record.error or record.message}")
            if record.state == "done":
                raise Conflict("Another version wrote the job's result: restart the job")
            raise Conflict("The job was cancelled before it had a model")
        return record, figures

    async def figures(self, record: Record) -> dict[str, Any]:
        """Return the figures of a job; of a stopped one the partial figures, {} of others.

        {} also where another version of the server stored what this one cannot read.
        """
        found: Any = None
        if record.state == "done":
            found = record.result
        elif record.state == "cancelled":
            found = await self._ctx.run_blocking(self._partial, record.id)
        try:
            msgspec.convert(found, _Figures)
        except msgspec.ValidationError:
            return {}
        return dict(found)

    def _partial(self, job: str) -> Any:
        # No partial result, or just deleted, or damaged by the disk.
        with contextlib.suppress(NotFound, OSError, msgspec.DecodeError):
            found = self._desk.storage.file(job, RESULT)
            return msgspec.json.decode(found.path.read_bytes())
        return None
