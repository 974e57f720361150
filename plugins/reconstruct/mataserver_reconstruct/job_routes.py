"""The status of a job, and its results."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from mataserver import Body, MataError, Route
from mataserver_reconstruct import views

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver import Context
    from mataserver_jobs.record import Record
    from mataserver_reconstruct.lookup import JobLookup
    from mataserver_reconstruct.service_parts import ServiceParts

JSON = "application/json"


class JobRoutes:
    """The handlers."""

    def __init__(self, ctx: Context, lookup: JobLookup, service: ServiceParts) -> None:
        self._ctx = ctx
        self._lookup = lookup
        self._service = service

    def routes(self) -> list[Route]:
        """Return the routes."""
        common: dict[str, Any] = {"tag": "reconstruct", "needs": "jobs:read", "denied": 401}
        status: dict[str, Any] = {"response": (Body(JSON, views.Status),), "errors": (404, 503)}
        return [
            Route("GET", "/status/{id}", self.status, "How far a job is", **status, **common),
            Route("GET", "/jobs/{id}", self.status, "How far a job is", **status, **common),
            Route("GET", "/clusters/{id}", self.clusters, "The models of a job",
                  response=(Body(JSON, views.Clusters),), errors=(404, 409, 503), **common),
            Route("GET", "/jobs/{id}/insights", self.insights, "What a job found, and its drift",
                  response=(Body(JSON, views.Insights),), errors=(404, 409, 500, 503), **common),
        ]  # fmt: skip

    async def status(self, request: web.Request) -> web.Response:
        """Answer with the status of a job."""
        record = await self._lookup.job(request)
        figures = await self._lookup.figures(record)
        report: dict[str, Any] = {}
        if figures and record.state == "done":
            with contextlib.suppress(MataError):  # without a report there is no drift
                report = (await self._service.recorder.record(record)).report
        told = views.status(record, figures, report)
        return self._ctx.http.respond(told, request=request)

    async def clusters(self, request: web.Request) -> web.Response:
        """Answer with the models of a job."""
        _, figures = await self._lookup.ended_job(request)
        return self._ctx.http.respond(views.clusters(figures), request=request)

    async def insights(self, request: web.Request) -> web.Response:
        """Answer with a job's results and its drift."""
        record, figures = await self._lookup.ended_job(request)
        told = views.insights(figures, await self._report(record))
        return self._ctx.http.respond(told, request=request)

    async def _report(self, record: Record) -> dict[str, Any]:
        """Return the drift report of a job; an empty one if it was stopped."""
        if record.state == "done":
            return (await self._service.recorder.record(record)).report
        return self._service.recorder.empty_report
