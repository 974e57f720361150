"""``POST /upload``: turns a ZIP of photographs into a job."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver import (
    CONTROLS,
    BadRequest,
    Body,
    Conflict,
    InvalidParams,
    MataError,
    OutOfMemory,
    Route,
    check_query,
    content_type,
    describe_error,
)
from mataserver_jobs.parameters import KEY_HEADER, idempotency_key, query_and
from mataserver_jobs.routes import asker, owner_of
from mataserver_reconstruct import archive, kind
from mataserver_reconstruct.archive_check import ArchiveChecker
from mataserver_reconstruct.spec import (
    GPS,
    LENGTH,
    NONE,
    Exhaustive,
    MaxKeypoints,
    MaxSize,
    Points,
    Seed,
    Voxel,
)
from mataserver_reconstruct.views import Accepted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from aiohttp import web

    from mataserver import Context
    from mataserver_jobs.api import JobsService
    from mataserver_jobs.record import Record
    from mataserver_jobs.uploads import Upload
    from mataserver_reconstruct.matcher_status import MatcherStatus

T = TypeVar("T")

JSON = "application/json"
FORM = "multipart/form-data"
ZIP = "application/zip"
MAX_JSON_BYTES = 100_000
FIELDS = {
    "dataset_name": "The data set's name in the CSV.",
    "scene_name": "The scene's name in the report.",
    "matcher": "Who finds and matches features.",
    "max_size": "Longest side in pixels at which photographs are looked at.",
    "max_keypoints": "About how many features of one photograph.",
    "exhaustive": "Photographs up to which every pair is matched.",
    "camera": "auto, single or per_image: which photographs share a camera.",
    "cluster": "components or louvain: what is one scene.",
    "density": "sparse or semi.",
    "scale": "none, gps, or a length: IMAGE:X,Y IMAGE:X,Y METRES.",
    "voxel": "Side of a voxel in the model's own units.",
    "max_points": "Points of one cloud at most.",
    "seed": "Of everything that draws.",
}
"""The options of an upload, in its form or in its query."""
Scale = Annotated[
    str,
    Meta(max_length=1_000, extra_json_schema={"pattern": f"^({NONE}|{GPS}|{LENGTH.pattern})?$"}),
]
_Text = Annotated[
    str,
    Meta(
        max_length=200,
        pattern=rf"^[^{CONTROLS}]*\Z",
        description="a text without control characters, also those of the writing's direction",
    ),
]


class UploadFields(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a form or JSON asks; the query may hold it as well. An empty text asks nothing."""

    dataset_name: _Text | UnsetType = UNSET
    scene_name: _Text | UnsetType = UNSET
    matcher: str | UnsetType = UNSET
    max_size: MaxSize | UnsetType = UNSET
    max_keypoints: MaxKeypoints | UnsetType = UNSET
    exhaustive: Exhaustive | UnsetType = UNSET
    camera: Literal["", "auto", "single", "per_image"] | UnsetType = UNSET
    cluster: Literal["", "components", "louvain"] | UnsetType = UNSET
    density: Literal["", "sparse", "semi"] | UnsetType = UNSET
    scale: Scale | UnsetType = UNSET
    voxel: Voxel | UnsetType = UNSET
    max_points: Points | UnsetType = UNSET
    seed: Seed | UnsetType = UNSET


class UploadForm(UploadFields, kw_only=True):
    """The form: the archive, and what is asked."""

    file: bytes


class UploadJson(UploadFields, kw_only=True, forbid_unknown_fields=True):
    """An archive that came by ``/v1/uploads``, by its id there."""

    upload: Annotated[str, Meta(min_length=1, max_length=64)]


class Uploads:
    """The handler."""

    def __init__(self, ctx: Context, worker: MatcherStatus) -> None:
        self._ctx = ctx
        self._matcher_status = worker
        self._archive_checker = ArchiveChecker(ctx)

    def routes(self) -> list[Route]:
        """Return the route."""
        fields = msgspec.structs.fields(UploadFields)
        bodies = (Body(FORM, UploadForm), Body(ZIP), Body(JSON, UploadJson))
        return [
            Route("POST", "/upload", self.upload, "Reconstruct the photographs of a ZIP archive",
                  "reconstruct", request=bodies,
                  response=(Body(JSON, Accepted),), status=202,
                  parameters={each.name: (each.type, False, FIELDS[each.name]) for each in fields},
                  headers=KEY_HEADER,
                  errors=(400, 404, 408, 409, 413, 415, 422, 503, 507), needs="jobs:write",
                  denied=401, max_body=self._max_bytes, body_timeout="idle"),
        ]  # fmt: skip

    async def upload(self, request: web.Request) -> web.Response:
        """Accept an archive; answer 202 with the id of its job."""
        key = idempotency_key(request)
        check_query(request, FIELDS)
        self._job_spec(request.query, "")  # checked before the archive is read, which may be large
        named = content_type(request) == JSON
        job = await (self._from_upload(request, key) if named else self._from_body(request, key))
        return self._ctx.http.respond(Accepted(job.id), status=202, request=request)

    async def _from_body(self, request: web.Request, key: str | None) -> Record:
        """Take the archive from the request's body or form."""
        desk, owner = self._jobs.desk, asker(request).id
        async with desk.draft() as draft:
            file = draft.input / kind.ARCHIVE
            saved = await self._ctx.http.save_body(request, file)
            order = self._job_spec(query_and(request, saved.fields), saved.name)
            order = await self._checked(order, file)
            return await desk.submit(draft, kind.NAME, owner, order, key=key, size=saved.size)

    async def _from_upload(self, request: web.Request, key: str | None) -> Record:
        """Take an archive that was sent to ``/v1/uploads``; the job then owns it."""
        if (request.content_length or MAX_JSON_BYTES + 1) > MAX_JSON_BYTES:
            raise MataError(f"JSON is taken up to {MAX_JSON_BYTES} bytes", status=413)
        async with self._ctx.http.read_json(request, UploadJson) as asked:
            fields = msgspec.to_builtins(asked)
        upload, owner = fields.pop("upload"), owner_of(request)
        async with self._jobs.uploads.reserve(upload, owner) as known:
            return await self._submit_upload(request, known, fields, key)

    async def _submit_upload(
        self, request: web.Request, known: Upload, fields: dict[str, Any], key: str | None
    ) -> Record:
        uploads, desk, owner = self._jobs.uploads, self._jobs.desk, asker(request).id
        if known.length > self._max_bytes:
            raise MataError(f"The archive is over the limit of {self._max_bytes} bytes", status=413)
        order = self._job_spec(query_and(request, fields), known.name)
        if known.job is not None:
            return await self._repeated(known.job, owner, order, key)
        async with desk.draft() as draft:
            file = draft.input / kind.ARCHIVE
            await self._ctx.run_blocking(uploads.hand_over, known, file)
            order = await self._checked(order, file)
            job = await desk.submit(draft, kind.NAME, owner, order, key=key, size=known.length)
        await self._ctx.run_blocking(uploads.note_taken, known, job.id)
        return job

    async def _repeated(
        self, job: str, owner: str, order: kind.ReconstructionSpec, key: str | None
    ) -> Record:
        """Return the job that already has an upload, for a repeated request.

        Raises ``Conflict`` for a different request.
        """
        record = await self._jobs.desk.store.get(job, owner)
        same = msgspec.structs.replace(order, images=record.spec["images"])
        if key is None or record.idempotency_key != key or record.spec != msgspec.to_builtins(same):
            raise Conflict("A job has taken the upload")
        return record

    async def _checked(self, order: kind.ReconstructionSpec, file: Path) -> kind.ReconstructionSpec:
        """Check the archive and return the spec with its number of images.

        Raises as ``_images`` and ``ArchiveChecker``.
        """
        images = await self._ctx.run_blocking(self._images, file)
        await self._archive_checker.check(file, self._ctx.settings.limits)
        return msgspec.structs.replace(order, images=images)

    @property
    def _jobs(self) -> JobsService:
        jobs: JobsService = self._ctx.peer("jobs")
        return jobs

    @property
    def _max_bytes(self) -> int:
        most: int = self._ctx.settings.max_upload_mb * 1_000_000
        return most

    def _job_spec(self, fields: Mapping[str, Any], name: str) -> kind.ReconstructionSpec:
        """Return the job's spec from the fields, of which an empty one counts as missing.

        Raises ``InvalidParams``, ``Unavailable``.
        """
        settings = self._ctx.settings
        for each in fields:
            if each not in FIELDS:
                raise InvalidParams(f"{each[:64]}: unknown field")
        asked_for = {name: value for name, value in fields.items() if value != ""}
        given = {"voxel": settings.voxel_size, "max_points": settings.max_points, **asked_for}
        asked = _convert(given, kind.ReconstructionSpec)
        _convert(asked_for, UploadFields)  # its names hold less than stored ones may
        self._matcher_status.check(asked.matcher)
        ours = {"limits": settings.limits, "threads": settings.threads}
        return msgspec.structs.replace(asked, **ours, file=name[:255])

    def _images(self, file: Path) -> int:
        """Return the number of photographs in an archive.

        Raises ``BadRequest`` for one that is refused, ``OutOfMemory`` (507) when the disk has no
        space for them.
        """
        limits = self._ctx.settings.limits
        found = archive.inspect(file, limits)
        if not found:
            endings = ", ".join(sorted(archive.PICTURES))
            raise BadRequest(f"the archive has no photographs: files ending in {endings}")
        if sum(entry.file_size for entry in found) > shutil.disk_usage(file.parent).free:
            raise OutOfMemory("The disk has no room for what the archive unpacks to")
        return len(found)


def _convert(fields: Mapping[str, Any], wanted: type[T]) -> T:
    try:
        return msgspec.convert(fields, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidParams(describe_error(error, wanted)) from None
