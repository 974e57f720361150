"""``/drift``: whether photographs differ from earlier ones, and retraining."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from msgspec import Struct

from mataserver import BadRequest, Body, Route, Unavailable, check_query
from mataserver_jobs.routes import asker, owner_of
from mataserver_reconstruct import archive, kind, views
from mataserver_reconstruct.history import HistoryEntry
from mataserver_reconstruct.retraining import TriggeredRun

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mataserver import Context
    from mataserver_jobs.desk import Desk
    from mataserver_reconstruct.service_parts import ServiceParts

JSON = "application/json"
LINES = "application/x-ndjson"
MAX_WAITING = 8
"""Archives that are compared or wait for it; each holds a file on the disk."""


class DriftForm(Struct):
    """The form: a ZIP archive of photographs."""

    file: bytes


class DriftRoutes:
    """The handlers."""

    def __init__(self, ctx: Context, service: ServiceParts) -> None:
        self._ctx = ctx
        self._service = service
        self._turn = asyncio.Lock()
        self._waiting = 0

    def routes(self) -> list[Route]:
        """Return the routes."""
        form = (Body("multipart/form-data", DriftForm),)
        return [
            Route("POST", "/drift", self.check, "Whether photographs differ from those before",
                  "reconstruct", request=form, response=(Body(JSON, views.Checked),),
                  errors=(400, 408, 413, 422, 500, 503, 507), needs="jobs:write", denied=401,
                  max_body=self._ctx.settings.max_upload_mb * 1_000_000, body_timeout="idle"),
            Route("POST", "/drift/trigger-retrain", self.retrain, "Begin a run of Airflow's DAG",
                  "reconstruct", response=(Body(JSON, TriggeredRun),), errors=(502, 503),
                  denied=401),
            Route("GET", "/drift/history", self.history, "The drift of every upload, as lines",
                  "reconstruct", response=(Body(LINES, HistoryEntry),), errors=(422, 503),
                  needs="jobs:read", denied=401),
        ]  # fmt: skip

    async def check(self, request: web.Request) -> web.Response:
        """Answer with the drift report of an archive, which is not stored."""
        desk: Desk = self._ctx.peer("jobs").desk
        async with self._slot(), desk.draft() as draft:
            file = draft.input / kind.ARCHIVE
            await self._ctx.http.save_body(request, file)
            await self._ctx.run_blocking(self._inspect, file)
            async with self._turn:
                report = await self._service.recorder.check(file, asker(request).id)
        return self._ctx.http.respond(views.checked(report), request=request)

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Count the requests in progress. Raises ``Unavailable`` when there are too many."""
        if self._waiting >= MAX_WAITING:
            raise Unavailable("Too many archives are compared now", retry_after=10)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    def _inspect(self, file: Path) -> None:
        if not archive.inspect(file, self._ctx.settings.limits):
            raise BadRequest("the archive has no photographs")

    async def retrain(self, request: web.Request) -> web.Response:
        """Start a run of the DAG."""
        triggered = await self._service.retraining.by_hand(asker(request).name)
        return self._ctx.http.respond(triggered, request=request)

    async def history(self, request: web.Request) -> web.StreamResponse:
        """Answer with a line of JSON per upload, the oldest first."""
        check_query(request, ())
        headers: dict[str, Any] = {
            "Content-Type": LINES,
            "Content-Disposition": 'attachment; filename="drift_history.jsonl"',
        }
        entries = self._service.history.entries(owner_of(request))
        response = web.StreamResponse(headers=headers)
        async for entry in entries:
            if not response.prepared:
                await response.prepare(request)
            await response.write(msgspec.json.encode(entry) + b"\n")
        if not response.prepared:
            await response.prepare(request)
        await response.write_eof()
        return response
