"""The service: uploads become jobs, jobs become models, and the drift of uploads is watched."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING, Any, Self

import msgspec

from mataserver_reconstruct.chronicle import Chronicle
from mataserver_reconstruct.downloads import Downloads
from mataserver_reconstruct.drift_routes import DriftRoutes
from mataserver_reconstruct.gauges import Gauges
from mataserver_reconstruct.history import History
from mataserver_reconstruct.job_routes import JobRoutes
from mataserver_reconstruct.kind import KIND
from mataserver_reconstruct.lookup import Lookup
from mataserver_reconstruct.photo_routes import PhotoRoutes
from mataserver_reconstruct.retraining import Retraining
from mataserver_reconstruct.tables import SCHEMA
from mataserver_reconstruct.uploads import Uploads
from mataserver_reconstruct.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Context, Route
    from mataserver_jobs import JobKind


class ReconstructService:
    """``plugins.reconstruct``."""

    requires = ("database", "jobs")
    chronicle: Chronicle
    history: History
    retraining: Retraining

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._worker = Worker(ctx)
        self._gauges = Gauges(ctx.metrics)
        self._gauges.ready.set_function(lambda: float(bool(self._worker.device)))
        self._following: asyncio.Task[None] | None = None
        lookup = Lookup(ctx)
        self._parts = (
            Uploads(ctx, self._worker),
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
        return (dataclasses.replace(KIND, settings=given),)

    def ping(self) -> dict[str, Any]:
        """Return what the API tells in ``GET /health``."""
        return {"status": "ok", "timestamp": time.time()}

    def ready(self) -> dict[str, Any]:
        """Return what reconstructions work on, and of each matcher whether it can work."""
        return {"device": self._worker.device, "matchers": self._worker.matchers()}

    def waiting(self) -> dict[str, str]:
        """Return why no reconstruction can run; empty when one can."""
        return {"reconstruct": self._worker.problem} if self._worker.problem else {}

    async def __aenter__(self) -> Self:
        """Bring the tables to their version and watch the jobs. Raises ``MataError``."""
        ctx, database = self._ctx, self._ctx.peer("database").database
        await database.migrate(SCHEMA)
        self.history = History(database)
        self.retraining = Retraining(ctx, database)
        desk = ctx.peer("jobs").desk
        self.chronicle = Chronicle(ctx, desk, self.history, self._gauges, self.retraining)
        ctx.tasks.spawn(self._worker.look(), "load the matcher")
        ctx.tasks.spawn(self._follow(), "note the reconstructions")
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop watching."""
        self.chronicle.leave()
        if self._following is not None:
            await self._following

    async def _follow(self) -> None:
        """Watch the jobs in a task that is not cancelled: it is asked to end."""
        self._following = asyncio.create_task(self.chronicle.follow())
        await asyncio.shield(self._following)
