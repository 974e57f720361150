"""``/v1/jobs``: the routes for jobs of all kinds."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from mataserver import (
    PRINCIPAL,
    Body,
    InvalidParams,
    NotFound,
    Route,
    Unavailable,
    check_query,
)
from mataserver_database import Page, cursor_of
from mataserver_jobs.kinds import KIND_NAME
from mataserver_jobs.parameters import (
    LOG,
    LOG_BYTES,
    MAX_LIMIT,
    MAX_LOG_BYTES,
    MAX_OFFSET,
    PAGES,
    STATES,
    chosen,
    number,
)
from mataserver_jobs.rows import OPEN
from mataserver_jobs.sent_file import SentFile, also_of_file
from mataserver_jobs.views import FileList, FileView, JobList, JobView, ListedJob, Restart

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mataserver import Context, Principal
    from mataserver_jobs.desk import Desk
    from mataserver_jobs.record import Record

JSON = "application/json"
ANY_TYPE = "*/*"
"""A file of a result is sent as what its name says."""
SILENCE_SECONDS = 15.0
"""Seconds of silence after which the state is sent again, for proxies in between."""


class Served(Protocol):
    """What has the desk, once it is entered."""

    desk: Desk


class Routes:
    """The handlers."""

    def __init__(self, ctx: Context, service: Served) -> None:
        self._ctx = ctx
        self._service = service

    @property
    def _desk(self) -> Desk:
        return self._service.desk

    def all(self) -> list[Route]:
        """Return the routes."""
        one, job = "/v1/jobs/{id}", (Body(JSON, JobView),)
        read: dict[str, Any] = {"tag": "jobs", "needs": "jobs:read"}
        write = {**read, "needs": "jobs:write"}
        return [
            Route("GET", "/v1/jobs", self.find, "List jobs", response=(Body(JSON, JobList),),
                  parameters=PAGES, errors=(422, 503), **read),
            Route("GET", one, self.get, "Show a job", response=job, errors=(404, 503), **read),
            Route("GET", f"{one}/events", self.events, "Follow a job",
                  response=(Body("text/event-stream"),), errors=(404, 503), also={204: ()},
                  headers={"Last-Event-ID": (str, False, "The last event that was seen.")}, **read),
            Route("GET", f"{one}/log", self.log, "What a job printed",
                  response=(Body("text/plain"),), errors=(404, 422, 503),
                  parameters=LOG, **read),
            Route("GET", f"{one}/files", self.files, "List a job's files",
                  response=(Body(JSON, FileList),), errors=(404, 422, 503), **read),
            Route("GET", one + "/files/{name:.+}", self.file, "Download a file",
                  response=(Body(ANY_TYPE),), errors=(404, 503), also=also_of_file(ANY_TYPE),
                  headers={"Range": (str, False, "Which bytes of it.")}, **read),
            Route("POST", f"{one}/cancel", self.cancel, "Cancel a job", response=job, status=202,
                  errors=(404, 409, 503), **write),
            Route("POST", f"{one}/restart", self.restart, "Run an ended job once more",
                  request=(Body(JSON, Restart, {"spec": {}}),), optional=True, response=job,
                  status=202, errors=(400, 404, 408, 409, 413, 415, 422, 503, 507), **write),
            Route("POST", one, self.unknown, "No kind of jobs", documented=False, **write),
            Route("DELETE", one, self.remove, "Remove an ended job and its files", status=204,
                  errors=(404, 409, 503), **write),
        ]  # fmt: skip

    async def find(self, request: web.Request) -> web.Response:
        """Answer with a page of the jobs that the caller may see."""
        check_query(request, PAGES)
        query = request.query
        states, omitted = chosen(request, "state", STATES), chosen(request, "omit", OPEN)
        limit = number(request, "limit", 100, 1, MAX_LIMIT)
        offset = number(request, "offset", 0, 0, MAX_OFFSET)
        if not KIND_NAME.fullmatch(query.get("kind", "any")):
            raise InvalidParams("kind: letters, digits, dots, dashes and underscores, 64 at most")
        found = await self._desk.store.find(
            owner=owner_of(request),
            kind=query.get("kind"),
            states=states,
            page=Page(limit, offset, cursor_of(request)),
            omitted=omitted,
        )
        jobs = [ListedJob.without(self._desk.shown(each), omitted) for each in found.jobs]
        page = JobList(jobs, found.total, limit, offset, found.next_cursor)
        return self._ctx.http.respond(page, request=request)

    async def unknown(self, request: web.Request) -> web.Response:
        """Raise ``NotFound``, with the kinds that there are: those have routes of their own."""
        self._desk.kind(request.match_info["id"])
        raise NotFound("Jobs of this kind are sent to another path: see /docs")

    async def get(self, request: web.Request) -> web.Response:
        """Answer with a job."""
        return self._respond(request, await self._job(request))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Answer with a job's state, and again whenever it changes, until it has ended.

        204 for a client that has seen the end: an ``EventSource`` then stops to ask.
        """
        view = JobView.of(self._desk.shown(await self._job(request)))
        seen = request.headers.get("Last-Event-ID", "")
        if view.finished_at is not None and view.tag == seen:
            return web.Response(status=204)
        return await self._ctx.http.events(request, self._states(view.id, seen))

    async def _states(self, job: str, seen: str) -> AsyncGenerator[tuple[str, object, str]]:
        with self._desk.watching() as changed:
            while True:
                changed.clear()
                record = await self._desk.followed.get(job)
                view = JobView.of(self._desk.shown(record))
                if view.tag != seen:
                    yield ("end" if record.ended else "job"), view, view.tag
                if record.ended:
                    return
                seen = view.tag if await self._change(changed) else ""

    async def _change(self, changed: asyncio.Event) -> bool:
        """Wait for a change; False when there was none for long. Raises at a shutdown."""
        waits = [asyncio.ensure_future(each.wait()) for each in (changed, self._ctx.stopping)]
        try:
            await asyncio.wait(waits, timeout=SILENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._ctx.stopping.is_set():
            raise Unavailable("The server is shutting down", retry_after=5)
        return changed.is_set()

    async def log(self, request: web.Request) -> web.Response:
        """Answer with the end of what a job printed."""
        check_query(request, LOG)
        record = await self._job(request)
        size = number(request, "bytes", LOG_BYTES, 1, MAX_LOG_BYTES)
        data = await self._ctx.run_blocking(self._desk.storage.log, record.id, size)
        return web.Response(text=data.decode(errors="replace"), headers=GUARDED)

    async def files(self, request: web.Request) -> web.Response:
        """Answer with the list of a job's files."""
        check_query(request, ())
        record = await self._job(request)
        found = await self._ctx.run_blocking(self._list_files, record.id)
        return self._ctx.http.respond(FileList(found), request=request)

    def _list_files(self, job: str) -> list[FileView]:
        found = []
        for each in self._desk.storage.files(job):
            with contextlib.suppress(FileNotFoundError):  # the job may be replacing it
                stat = each.path.stat()
                found.append(FileView(each.name, stat.st_size, stat.st_mtime))
        return found

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Answer with a file, or the ``Range`` of it; it has an ``ETag``."""
        record, name = await self._job(request), request.match_info["name"]
        found = await self._ctx.run_blocking(self._desk.storage.file, record.id, name)
        return SentFile(found.path, GUARDED)

    async def cancel(self, request: web.Request) -> web.Response:
        """Have a job stop."""
        record = await self._desk.store.cancel((await self._job(request)).id)
        self._desk.changed()
        return self._respond(request, record, 202)

    async def restart(self, request: web.Request) -> web.Response:
        """Run an ended job once more."""
        record, options = await self._job(request), Restart()
        if request.body_exists:
            async with self._ctx.http.read_json(request, Restart) as options:
                pass
        return self._respond(request, await self._desk.restart(record, options.spec), 202)

    async def remove(self, request: web.Request) -> web.Response:
        """Remove an ended job."""
        await self._desk.remove((await self._job(request)).id)
        return web.Response(status=204)

    async def _job(self, request: web.Request) -> Record:
        """Return the job that is asked for. Raises ``NotFound``, also for another's."""
        return await self._desk.store.get(request.match_info["id"], owner_of(request))

    def _respond(self, request: web.Request, record: Record, status: int = 200) -> web.Response:
        return self._ctx.http.respond(
            JobView.of(self._desk.shown(record)), status=status, request=request
        )


GUARDED = {
    "Cache-Control": "private, no-cache",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
"""What a job wrote must do nothing in a browser that shows it: ``default-src`` leaves forms.

Nor may the browser show it again without asking, as to who has signed out since: of a file with a
date alone it would, for a tenth of its age.
"""


def asker(request: web.Request) -> Principal:
    """Return the caller. Raises ``NotFound`` without one, which no route here allows."""
    principal = request[PRINCIPAL]
    if principal is None:
        raise NotFound("Job not found")
    return principal


def owner_of(request: web.Request) -> str | None:
    """Return the owner whose jobs a request may see: None for all."""
    principal = asker(request)
    return None if principal.may("admin") else principal.id
