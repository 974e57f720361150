"""``POST /upload``: a ZIP of photographs becomes a job."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mataserver import BadRequest, Body, InvalidParams, OutOfMemory, Route
from mataserver_jobs.routes import asker
from mataserver_reconstruct import archive, kind
from mataserver_reconstruct.views import Accepted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aiohttp import web

    from mataserver import Context
    from mataserver_jobs.desk import Desk
    from mataserver_reconstruct.worker import Worker

JSON = "application/json"
FORM = "multipart/form-data"
ZIP = "application/zip"
KEY = "Idempotency-Key"
MAX_KEY = 200
FIELDS: dict[str, tuple[Any, str]] = {
    "dataset_name": (str, "The data set's name in the CSV."),
    "scene_name": (str, "The scene's name in the report."),
    "matcher": (str, "Who finds and matches features."),
    "max_size": (int, "Longest side in pixels at which photographs are looked at."),
    "max_keypoints": (int, "Features of one photograph at most."),
    "exhaustive": (int, "Photographs up to which every pair is matched."),
    "camera": (str, "auto, single or per_image: which photographs share a camera."),
    "cluster": (str, "components or louvain: what is one scene."),
    "density": (str, "sparse or semi."),
    "voxel": (float, "Side of a voxel in the model's own units."),
    "max_points": (int, "Points of one cloud at most."),
    "seed": (int, "Of everything that draws."),
}
"""What an upload may ask, in its form or in its query."""


class UploadForm(Struct):
    """The form: the archive, and what is asked; the query may hold the latter as well."""

    file: bytes
    dataset_name: str = "custom"
    scene_name: str = "scene_01"
    matcher: str | UnsetType = UNSET
    max_size: int | UnsetType = UNSET
    max_keypoints: int | UnsetType = UNSET
    exhaustive: int | UnsetType = UNSET
    camera: str | UnsetType = UNSET
    cluster: str | UnsetType = UNSET
    density: str | UnsetType = UNSET
    voxel: float | UnsetType = UNSET
    max_points: int | UnsetType = UNSET
    seed: int | UnsetType = UNSET


class Uploads:
    """The handler."""

    def __init__(self, ctx: Context, worker: Worker) -> None:
        self._ctx = ctx
        self._worker = worker

    def routes(self) -> list[Route]:
        """Return the route."""
        return [
            Route("POST", "/upload", self.upload, "Reconstruct the photographs of a ZIP archive",
                  "reconstruct", request=(Body(FORM, UploadForm), Body(ZIP)),
                  response=(Body(JSON, Accepted),), status=202,
                  parameters={name: (of, False, text) for name, (of, text) in FIELDS.items()},
                  headers={KEY: (str, False, "One key is one job.")},
                  errors=(400, 408, 409, 413, 422, 503, 507), needs="jobs:write",
                  max_body=self._ctx.settings.max_upload_mb * 1_000_000, body_timeout="idle"),
        ]  # fmt: skip

    async def upload(self, request: web.Request) -> web.Response:
        """Take an archive; 202 with the id of its job."""
        key, desk = _key(request), self._desk
        self._order(request.query, "")  # before the archive is read: it may be large
        async with desk.draft() as draft:
            file = draft.input / kind.ARCHIVE
            saved = await self._ctx.http.save_body(request, file)
            order = self._order({**request.query, **saved.fields}, saved.name)
            images = await self._ctx.run_blocking(self._images, file)
            order = msgspec.structs.replace(order, images=images)
            owner = asker(request).id
            job = await desk.submit(draft, kind.NAME, owner, order, key=key, size=saved.size)
        return self._ctx.http.respond(Accepted(job.id), status=202, request=request)

    @property
    def _desk(self) -> Desk:
        desk: Desk = self._ctx.peer("jobs").desk
        return desk

    def _order(self, fields: Mapping[str, str], name: str) -> kind.Order:
        """Return what the texts of a form ask. Raises ``InvalidParams``, ``Unavailable``."""
        settings = self._ctx.settings
        for each in fields:
            if each not in FIELDS:
                raise InvalidParams(f"{each[:64]}: there is no such field")
        given = {"voxel": settings.voxel_size, "max_points": settings.max_points, **fields}
        try:
            asked = msgspec.convert(given, kind.Order, strict=False)
        except msgspec.ValidationError as error:
            what, _, place = str(error).partition(" - at `$.")
            raise InvalidParams(f"{place.rstrip('`')}: {what}") from None
        self._worker.check(asked.matcher)
        ours = {"limits": settings.limits, "threads": settings.threads}
        return msgspec.structs.replace(asked, **ours, file=name[:255])

    def _images(self, file: Path) -> int:
        """Return how many photographs an archive has.

        Raises ``BadRequest`` for one that is refused, ``OutOfMemory`` (507) when the disk has no
        room for them.
        """
        limits = self._ctx.settings.limits
        found = archive.inspect(file, limits)
        if not found:
            endings = ", ".join(sorted(archive.PICTURES))
            raise BadRequest(f"the archive has no photographs: files ending in {endings}")
        if sum(entry.file_size for entry in found) > shutil.disk_usage(file.parent).free:
            raise OutOfMemory("The disk has no room for what the archive unpacks to")
        archive.prove(file, found)
        return len(found)


def _key(request: web.Request) -> str | None:
    """Return the idempotency key of a request. Raises ``InvalidParams``."""
    key = request.headers.get(KEY)
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isascii()):
        raise InvalidParams(f"{KEY}: expected 1 to {MAX_KEY} ASCII characters")
    return key
