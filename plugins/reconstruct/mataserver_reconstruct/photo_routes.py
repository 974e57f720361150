"""The working copies of a job's photographs: upright, bounded, JPEG."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from mataserver import Body, NotFound, Route
from mataserver_jobs.routes import GUARDED
from mataserver_jobs.sent_file import SentFile, also_of_file
from mataserver_reconstruct.files import MANIFEST, PHOTOS

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import web

    from mataserver import Context
    from mataserver_reconstruct.lookup import JobLookup


_NUMBER = re.compile(r"[0-9]{1,6}")


class _ManifestEntry(Struct):
    """The used part of a manifest's entry: ``file`` in ``work/photos``, "" if unreadable."""

    file: str = ""


class PhotoRoutes:
    """The handler."""

    def __init__(self, ctx: Context, lookup: JobLookup) -> None:
        self._ctx = ctx
        self._lookup = lookup

    def routes(self) -> list[Route]:
        """Return the route."""
        return [
            Route("GET", "/jobs/{id}/photos/{number}", self.photo, "A photograph of a job",
                  tag="reconstruct", response=(Body("image/jpeg"),), errors=(404, 503),
                  also=also_of_file("image/jpeg"), needs="jobs:read", denied=401),
        ]  # fmt: skip

    async def photo(self, request: web.Request) -> web.StreamResponse:
        """Answer with a photograph by its number, once all of them were read."""
        record = await self._lookup.job(request)
        folder = self._ctx.peer("jobs").desk.storage.folder(record.id) / "work"
        number = request.match_info["number"]
        path = await self._ctx.run_blocking(_photo, folder, number)
        return SentFile(path, {**GUARDED, "Content-Type": "image/jpeg"})


def _photo(work: Path, number: str) -> Path:
    """Return the file of a photograph. Raises ``NotFound``."""
    if _NUMBER.fullmatch(number):
        with contextlib.suppress(FileNotFoundError, IndexError):
            known = msgspec.json.decode((work / MANIFEST).read_bytes(), type=list[_ManifestEntry])
            path = work / PHOTOS / known[int(number)].file
            if path.is_file():
                return path
    raise NotFound("The job has no such photograph")
