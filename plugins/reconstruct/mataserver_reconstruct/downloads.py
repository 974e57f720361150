"""The files of a finished job: its clouds, singly or in one ZIP, its CSV and its report."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mataserver import Body, InvalidParams, NotFound, Route
from mataserver_jobs.routes import GUARDED
from mataserver_jobs.sent_file import SentFile, also_of_file
from mataserver_reconstruct.files import CLOUDS, CSV, CSV_WITH_ID, REPORT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from mataserver import Context
    from mataserver_jobs.desk import Desk
    from mataserver_reconstruct.lookup import JobLookup

_TYPES = {
    ".csv": "text/csv; charset=utf-8",
    ".glb": "model/gltf-binary",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".zip": "application/zip",
}
_BYTES = "application/octet-stream"
_EVERY = (_BYTES, *(each.partition(";")[0] for each in _TYPES.values()))
_OF_REPORT = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
_WITH_ID = {"": False, "0": False, "false": False, "1": True, "true": True}


class Downloads:
    """The handlers."""

    def __init__(self, ctx: Context, lookup: JobLookup) -> None:
        self._ctx = ctx
        self._lookup = lookup

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/download/jobs/{id}"
        common: dict[str, Any] = {
            "tag": "reconstruct", "errors": (404, 409, 503), "needs": "jobs:read", "denied": 401,
        }  # fmt: skip
        part = {"Range": (str, False, "Which bytes of it.")}
        with_id = {"image_id": (bool, False, "Whether a column image_id comes first.")}
        return [
            Route("GET", one, self.clouds, "All clouds of a job in a ZIP",
                  response=(Body("application/zip"),), headers=part,
                  also=also_of_file("application/zip"), **common),
            Route("GET", f"{one}/csv", self.csv, "The poses of a job",
                  response=(Body("text/csv"),), parameters=with_id, also=also_of_file("text/csv"),
                  **{**common, "errors": (404, 409, 422, 503)}),
            Route("GET", one + "/{filename}", self.file, "One file of a job",
                  response=tuple(map(Body, _EVERY)), headers=part, also=also_of_file(*_EVERY),
                  **common),
            Route("GET", "/jobs/{id}/report", self.report, "The report of a job, with pictures",
                  response=(Body("text/html"),), also=also_of_file("text/html"), **common),
        ]  # fmt: skip

    @property
    def _desk(self) -> Desk:
        desk: Desk = self._ctx.peer("jobs").desk
        return desk

    async def clouds(self, request: web.Request) -> web.StreamResponse:
        """Answer with every PLY file of a job in one archive."""
        record, figures = await self._lookup.ended_job(request)
        names = [each["filename"] for each in figures["clusters"] if each["filename"]]
        if not names:
            raise NotFound("PLY file not available: the reconstruction has no 3D points")
        path = await self._ctx.run_blocking(self._pack, record.id, names)
        return _file_response(path, f"reconstruction_{record.id[:8]}.zip")

    def _pack(self, job: str, names: Sequence[str]) -> Path:
        """Return an archive of files of a job, creating it on first use."""
        files = [self._desk.storage.file(job, name) for name in names]
        work = self._desk.storage.folder(job) / "work"
        path = work / CLOUDS
        if path.exists() and path.stat().st_mtime >= max(f.path.stat().st_mtime for f in files):
            return path
        work.mkdir(exist_ok=True)  # not there where it ran on a node without a shared folder
        with tempfile.NamedTemporaryFile(dir=work, suffix=".new", delete=False) as fresh:
            made = Path(fresh.name)
            try:
                with zipfile.ZipFile(fresh, "w", zipfile.ZIP_STORED) as archive:
                    for each in files:
                        archive.write(each.path, each.name)
                made.replace(path)
            except BaseException:
                made.unlink(missing_ok=True)
                raise
        return path

    async def csv(self, request: web.Request) -> web.StreamResponse:
        """Answer with the poses, also for a job without points."""
        wish = ",".join(request.query.getall("image_id", ())).lower()
        if wish not in _WITH_ID:
            raise InvalidParams("image_id: expected 1 or 0, once")
        return await self._send(request, CSV_WITH_ID if _WITH_ID[wish] else CSV)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Answer with a file by its name."""
        return await self._send(request, request.match_info["filename"])

    async def report(self, request: web.Request) -> web.StreamResponse:
        """Answer with the report, for display."""
        return await self._send(request, REPORT)

    async def _send(self, request: web.Request, name: str) -> web.StreamResponse:
        record, _ = await self._lookup.ended_job(request)
        found = await self._ctx.run_blocking(self._desk.storage.file, record.id, name)
        return _file_response(found.path, "" if name == REPORT else name)


def _file_response(path: Path, name: str) -> SentFile:
    """Return a file as an answer: as a download with a name, for display without one."""
    headers = {**GUARDED, "Content-Type": _TYPES.get(path.suffix, _BYTES)}
    if name:
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    else:
        headers["Content-Security-Policy"] = _OF_REPORT
    return SentFile(path, headers)
