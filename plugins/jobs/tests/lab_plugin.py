"""A plugin with two kinds of jobs, as any other plugin brings them."""

from __future__ import annotations

import job_functions
from msgspec import Struct, json, to_builtins

from mataserver import PRINCIPAL, Route, hookimpl
from mataserver_jobs import JobKind


class Count(Struct, forbid_unknown_fields=True):
    to: int
    name: str = "count"


class Misbehave(Struct):
    how: str


class Lab:
    """Submits what it is sent."""

    requires = ("jobs",)

    def __init__(self, ctx):
        self._ctx = ctx

    def jobs(self):
        return [
            JobKind(name="count", run=job_functions.count, spec=Count, grace=1.0),
            JobKind(name="misbehave", run=job_functions.misbehave, spec=Misbehave, grace=1.0),
        ]

    def routes(self):
        return [
            Route("POST", "/lab/sweep", self.sweep),
            Route("POST", "/lab/{kind}", self.submit, needs="jobs:write"),
        ]

    async def sweep(self, request):
        removed = await self._ctx.peer("jobs").desk.sweep()
        return self._ctx.http.respond({"removed": removed})

    async def submit(self, request):
        desk = self._ctx.peer("jobs").desk
        kind = desk.kind(request.match_info["kind"])
        async with self._ctx.http.read_body(request) as body, desk.draft() as draft:
            (draft.input / "given").write_bytes(body)
            spec = json.decode(body, type=kind.spec)
            owner = request[PRINCIPAL].id
            key = request.headers.get("Idempotency-Key")
            job = await desk.submit(draft, kind.name, owner, spec, key=key, size=len(body))
        return self._ctx.http.respond(to_builtins(job), status=202)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        pass


@hookimpl
def service(ctx):
    return Lab(ctx)
