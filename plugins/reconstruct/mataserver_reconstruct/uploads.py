"""``POST /upload``: a ZIP of photographs becomes a job."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver import (
    BadRequest,
    Body,
    Conflict,
    InvalidParams,
    MataError,
    OutOfMemory,
    Route,
    content_type,
    describe_error,
)
from mataserver_jobs.routes import asker, owner_of
from mataserver_reconstruct import archive, kind
from mataserver_reconstruct.proving import Proving
from mataserver_reconstruct.views import Accepted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aiohttp import web

    from mataserver import Context
    from mataserver_jobs.api import JobsService
    from mataserver_jobs.record import Record
    from mataserver_jobs.uploads import Upload
    from mataserver_reconstruct.worker import Worker

JSON = "application/json"
FORM = "multipart/form-data"
ZIP = "application/zip"
KEY = "Idempotency-Key"
MAX_KEY = 200
MAX_JSON_BYTES = 100_000
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
    "scale": (str, "none, gps, or a length: IMAGE:X,Y IMAGE:X,Y METRES."),
    "voxel": (float, "Side of a voxel in the model's own units."),
    "max_points": (int, "Points of one cloud at most."),
    "seed": (int, "Of everything that draws."),
}
"""What an upload may ask, in its form or in its query."""


class Asked(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a form or JSON asks; the query may hold it as well."""

    dataset_name: str | UnsetType = UNSET
    scene_name: str | UnsetType = UNSET
    matcher: str | UnsetType = UNSET
    max_size: int | UnsetType = UNSET
    max_keypoints: int | UnsetType = UNSET
    exhaustive: int | UnsetType = UNSET
    camera: str | UnsetType = UNSET
    cluster: str | UnsetType = UNSET
    density: str | UnsetType = UNSET
    scale: str | UnsetType = UNSET
    voxel: float | UnsetType = UNSET
    max_points: int | UnsetType = UNSET
    seed: int | UnsetType = UNSET


class UploadForm(Asked, kw_only=True):
    """The form: the archive, and what is asked."""

    file: bytes


class UploadJson(Asked, kw_only=True, forbid_unknown_fields=True):
    """An archive that came by ``/v1/uploads``, by its id there."""

    upload: Annotated[str, Meta(min_length=1, max_length=64)]


class Uploads:
    """The handler."""

    def __init__(self, ctx: Context, worker: Worker) -> None:
        self._ctx = ctx
        self._worker = worker
        self._proving = Proving(ctx)

    def routes(self) -> list[Route]:
        """Return the route."""
        bodies = (Body(FORM, UploadForm), Body(ZIP), Body(JSON, UploadJson))
        return [
            Route("POST", "/upload", self.upload, "Reconstruct the photographs of a ZIP archive",
                  "reconstruct", request=bodies,
                  response=(Body(JSON, Accepted),), status=202,
                  parameters={name: (of, False, text) for name, (of, text) in FIELDS.items()},
                  headers={KEY: (str, False, "One key is one job.")},
                  errors=(400, 404, 408, 409, 413, 415, 422, 503, 507), needs="jobs:write",
                  max_body=self._most, body_timeout="idle"),
        ]  # fmt: skip

    async def upload(self, request: web.Request) -> web.Response:
        """Take an archive; 202 with the id of its job."""
        key = _key(request)
        self._order(request.query, "")  # before the archive is read: it may be large
        named = content_type(request) == JSON
        job = await (self._named(request, key) if named else self._sent(request, key))
        return self._ctx.http.respond(Accepted(job.id), status=202, request=request)

    async def _sent(self, request: web.Request, key: str | None) -> Record:
        """Take the archive that the request is, or holds in its form."""
        desk, owner = self._jobs.desk, asker(request).id
        async with desk.draft() as draft:
            file = draft.input / kind.ARCHIVE
            saved = await self._ctx.http.save_body(request, file)
            order = self._order({**request.query, **saved.fields}, saved.name)
            order = await self._proven(order, file)
            return await desk.submit(draft, kind.NAME, owner, order, key=key, size=saved.size)

    async def _named(self, request: web.Request, key: str | None) -> Record:
        """Take an archive that came by ``/v1/uploads``; it is the job's then."""
        if (request.content_length or MAX_JSON_BYTES + 1) > MAX_JSON_BYTES:
            raise MataError(f"JSON is taken up to {MAX_JSON_BYTES} bytes", status=413)
        async with self._ctx.http.read_json(request, UploadJson) as asked:
            fields = msgspec.to_builtins(asked)
        upload, owner = fields.pop("upload"), owner_of(request)
        async with self._jobs.uploads.reserve(upload, owner) as known:
            return await self._taken(request, known, fields, key)

    async def _taken(
        self, request: web.Request, known: Upload, fields: dict[str, Any], key: str | None
    ) -> Record:
        uploads, desk, owner = self._jobs.uploads, self._jobs.desk, asker(request).id
        if known.length > self._most:
            raise MataError(f"The archive is over the limit of {self._most} bytes", status=413)
        order = self._order({**request.query, **fields}, known.name)
        if known.job is not None:
            return await self._again(known.job, owner, order, key)
        async with desk.draft() as draft:
            file = draft.input / kind.ARCHIVE
            await self._ctx.run_blocking(uploads.hand_over, known, file)
            order = await self._proven(order, file)
            job = await desk.submit(draft, kind.NAME, owner, order, key=key, size=known.length)
        await self._ctx.run_blocking(uploads.note_taken, known, job.id)
        return job

    async def _again(self, job: str, owner: str, order: kind.Order, key: str | None) -> Record:
        """Return the job that has taken an upload, for a request that is sent again.

        Raises ``Conflict`` for another request.
        """
        record = await self._jobs.desk.store.get(job, owner)
        same = msgspec.structs.replace(order, images=record.spec["images"])
        if key is None or record.idempotency_key != key or record.spec != msgspec.to_builtins(same):
            raise Conflict("A job has taken the upload")
        return record

    async def _proven(self, order: kind.Order, file: Path) -> kind.Order:
        """Return an order once its archive is one. Raises as ``_images`` and ``Proving``."""
        images = await self._ctx.run_blocking(self._images, file)
        await self._proving.check(file, self._ctx.settings.limits)
        return msgspec.structs.replace(order, images=images)

    @property
    def _jobs(self) -> JobsService:
        jobs: JobsService = self._ctx.peer("jobs")
        return jobs

    @property
    def _most(self) -> int:
        most: int = self._ctx.settings.max_upload_mb * 1_000_000
        return most

    def _order(self, fields: Mapping[str, Any], name: str) -> kind.Order:
        """Return what is asked; an empty text asks nothing.

        Raises ``InvalidParams``, ``Unavailable``.
        """
        settings = self._ctx.settings
        for each in fields:
            if each not in FIELDS:
                raise InvalidParams(f"{each[:64]}: unknown field")
        asked_for = {name: value for name, value in fields.items() if value != ""}
        given = {"voxel": settings.voxel_size, "max_points": settings.max_points, **asked_for}
        try:
            asked = msgspec.convert(given, kind.Order, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidParams(describe_error(error, kind.Order)) from None
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
        return len(found)


def _key(request: web.Request) -> str | None:
    """Return the idempotency key of a request. Raises ``InvalidParams``."""
    key = request.headers.get(KEY)
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isascii()):
        raise InvalidParams(f"{KEY}: expected 1 to {MAX_KEY} ASCII characters")
    return key
