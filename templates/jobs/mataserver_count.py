"""A kind of jobs: it counts, and goes on where it was."""

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
    """What such a job is asked."""

    to: Annotated[int, Meta(ge=0, le=1_000_000)]


class Taken(Struct):
    """The job that was begun."""

    id: str


def count(job: Job) -> dict[str, int]:
    """Runs in a process of its own, and again from the start when that dies."""
    book = job.work / "counted"
    done = int(book.read_text()) if book.exists() else 0  # an earlier attempt came so far
    for number in range(done, job.spec["to"]):
        job.report("counting", number, job.spec["to"], f"{number} of {job.spec['to']}")
        fresh = book.with_suffix(".new")
        fresh.write_text(str(number + 1))
        fresh.replace(book)  # whole or not at all: it may be killed at any moment
    (job.output / "count.txt").write_text(str(job.spec["to"]))
    return {"counted": job.spec["to"]}


class Counter:
    """Takes such jobs in."""

    requires = ("jobs",)

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def jobs(self) -> list[JobKind]:
        """Return the kinds of jobs."""
        return [JobKind(name="count", run=count, spec=Count, stages={"counting": (0.0, 100.0)})]

    def routes(self) -> list[Route]:
        """Return the routes."""
        asked, taken = Body("application/json", Count), Body("application/json", Taken)
        return [
            Route("POST", "/v1/jobs/count", self.submit, "Count", "jobs", request=(asked,),
                  response=(taken,), status=202, errors=(400, 408, 413, 415, 422, 503, 507),
                  needs="jobs:write"),
        ]  # fmt: skip

    async def submit(self, request: web.Request) -> web.Response:
        """Take a job in."""
        desk = self._ctx.peer("jobs").desk
        async with self._ctx.http.read_json(request, Count) as asked, desk.draft() as draft:
            job = await desk.submit(draft, "count", cast("Principal", request[PRINCIPAL]).id, asked)
        return self._ctx.http.respond(Taken(job.id), status=202)

    async def __aenter__(self) -> Self:
        """Start."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""


@hookimpl
def brings() -> dict[str, tuple[str, ...]]:
    """Return the kinds of jobs, of which no other plugin may have one."""
    return {"jobs": ("count",)}


@hookimpl
def service(ctx: Context) -> Counter:
    """Return the service."""
    return Counter(ctx)
