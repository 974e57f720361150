"""A job kind that counts, and resumes after an interruption."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self, cast

from msgspec import Meta, Struct

from mataserver import PRINCIPAL, Body, Route, hookimpl
from mataserver_jobs import JobKind

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver import Context, Principal
    from mataserver_jobs import Job


class Count(Struct, forbid_unknown_fields=True):
    """The request: a job's parameters."""

    to: Annotated[int, Meta(ge=0, le=1_000_000)]


class JobCreated(Struct):
    """The response: the new job."""

    id: str


def count(job: Job) -> dict[str, int]:
    """Run a job in a separate process; it is called again if the process dies."""
    checkpoint = job.work / "counted"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0  # by an earlier attempt
    for number in range(done, job.spec["to"]):
        job.report("counting", number, job.spec["to"], f"{number} of {job.spec['to']}")
        updated = checkpoint.with_suffix(".new")
        updated.write_text(str(number + 1))
        updated.replace(checkpoint)  # atomic: the process may be killed at any moment
    (job.output / "count.txt").write_text(str(job.spec["to"]))
    return {"counted": job.spec["to"]}


class Counter:
    """The service: accepts these jobs."""

    requires = ("jobs",)

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def jobs(self) -> list[JobKind]:
        """Return the job kinds."""
        return [JobKind(name="count", run=count, spec=Count, stages={"counting": (0.0, 100.0)})]

    def routes(self) -> list[Route]:
        """Return the routes."""
        body, created = Body("application/json", Count), Body("application/json", JobCreated)
        return [
            Route("POST", "/v1/jobs/count", self.submit, "Count", "jobs", request=(body,),
                  response=(created,), status=202, errors=(400, 408, 413, 415, 422, 503, 507),
                  needs="jobs:write"),
        ]  # fmt: skip

    async def submit(self, request: web.Request) -> web.Response:
        """Create a job."""
        desk = self._ctx.peer("jobs").desk
        async with self._ctx.http.read_json(request, Count) as spec, desk.draft() as draft:
            job = await desk.submit(draft, "count", cast("Principal", request[PRINCIPAL]).id, spec)
        return self._ctx.http.respond(JobCreated(job.id), status=202)

    async def __aenter__(self) -> Self:
        """Start."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""


@hookimpl
def brings() -> dict[str, tuple[str, ...]]:
    """Return the names of the job kinds, which no other plugin may provide."""
    return {"jobs": ("count",)}


@hookimpl
def service(ctx: Context) -> Counter:
    """Return the service."""
    return Counter(ctx)
