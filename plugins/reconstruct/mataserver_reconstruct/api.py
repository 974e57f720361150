"""The service: turns uploads into jobs and jobs into models, and monitors the drift of uploads."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING, Any, Self

import msgspec

from mataserver_reconstruct.downloads import Downloads
from mataserver_reconstruct.drift_recorder import DriftRecorder
from mataserver_reconstruct.drift_routes import DriftRoutes
from mataserver_reconstruct.gauges import Gauges
from mataserver_reconstruct.history import History
from mataserver_reconstruct.job_routes import JobRoutes
from mataserver_reconstruct.kind import KIND
from mataserver_reconstruct.lookup import JobLookup
from mataserver_reconstruct.matcher_status import MatcherStatus
from mataserver_reconstruct.photo_routes import PhotoRoutes
from mataserver_reconstruct.retraining import Retraining
from mataserver_reconstruct.tables import SCHEMA
from mataserver_reconstruct.uploads import UploadFields, Uploads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Context, Route
    from mataserver_jobs import JobKind
    from mataserver_reconstruct.kind import ReconstructionSpec


class ReconstructService:
    """``plugins.reconstruct``."""

    requires = ("database", "jobs")
    recorder: DriftRecorder
    history: History
    retraining: Retraining

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._matcher_status = MatcherStatus(ctx)
        self._gauges = Gauges(ctx.metrics)
        self._gauges.ready.set_function(lambda: float(bool(self._matcher_status.device)))
        self._recording: asyncio.Task[None] | None = None
        lookup = JobLookup(ctx)
        self._parts = (
            Uploads(ctx, self._matcher_status),
            JobRoutes(ctx, lookup, self),
            Downloads(ctx, lookup),
            PhotoRoutes(ctx, lookup),
            DriftRoutes(ctx, self),
        )

    def routes(self) -> Iterable[Route]:
        """Return every route."""
        return [route for part in self._parts for route in part.routes()]

    def jobs(self) -> tuple[JobKind, ...]:
        """Return the kind of jobs."""
        given = msgspec.to_builtins(self._ctx.settings.matchers)
        checks: dict[str, Any] = {"check": self._check, "options": UploadFields}
        return (dataclasses.replace(KIND, settings=given, **checks),)

    def _check(self, asked: ReconstructionSpec) -> None:
        """Raise ``InvalidParams`` or ``Unavailable`` for a matcher that cannot work here."""
        self._matcher_status.check(asked.matcher)

    def ping(self) -> dict[str, Any]:
        """Return this API's part of ``GET /health``."""
        return {"status": "ok", "timestamp": time.time()}

    def ready(self) -> dict[str, Any]:
        """Return the device of reconstructions, and the status of each matcher."""
        return {"device": self._matcher_status.device, "matchers": self._matcher_status.matchers()}

    def waiting(self) -> dict[str, str]:
        """Return why no reconstruction can run; empty when one can."""
        return {"reconstruct": self._matcher_status.problem} if self._matcher_status.problem else {}

    async def __aenter__(self) -> Self:
        """Migrate the tables and start to record jobs. Raises ``MataError``."""
        ctx, database = self._ctx, self._ctx.peer("database").database
        await database.migrate(SCHEMA)
        self.history = History(database)
        self.retraining = Retraining(ctx, database)
        desk = ctx.peer("jobs").desk
        self.recorder = DriftRecorder(ctx, desk, self.history, self._gauges, self.retraining)
        ctx.tasks.spawn(self._matcher_status.watch, "load the matcher")
        ctx.tasks.spawn(self._record, "note the reconstructions")
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop recording."""
        self.recorder.stop()
        if self._recording is not None:
            await self._recording

    async def _record(self) -> None:
        """Record jobs in a task that is not cancelled, but ends when the recorder is stopped.

        It begins once the server listens, which must not wait for it.
        """
        await self._ctx.address()
        self._recording = asyncio.create_task(self.recorder.run())
        await asyncio.shield(self._recording)
