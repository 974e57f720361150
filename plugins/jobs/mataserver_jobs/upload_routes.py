"""``/v1/uploads``: uploads that may break off and go on, by tus 1.0 (https://tus.io).

Core protocol, and the extensions creation, expiration, termination and checksum.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from aiohttp import hdrs, web
from msgspec import Meta

from mataserver import BadRequest, Body, Conflict, MataError, Route, content_type
from mataserver_database import finish
from mataserver_jobs.routes import asker, owner_of
from mataserver_jobs.upload_writer import ALGORITHMS

if TYPE_CHECKING:
    from mataserver import Context
    from mataserver_jobs.upload_writer import Writer
    from mataserver_jobs.uploads import Upload, Uploads

VERSION = "1.0.0"
PART = "application/offset+octet-stream"
MAX_METADATA = 4096
_DIGITS = 18
_TUS = {"Tus-Resumable": VERSION}
_REFUSED = {**_TUS, "Tus-Version": VERSION}  # which the protocol asks of a 412: what is spoken here
_TUS_VERSION: dict[str, tuple[Any, bool, str]] = {
    "Tus-Resumable": (Literal["1.0.0"], True, "The version of the protocol.")
}
_Checksum = Annotated[
    str,
    Meta(
        pattern=r"^(sha1 [A-Za-z0-9+/]{27}=|sha256 [A-Za-z0-9+/]{43}=)?\Z",
        description="sha1 or sha256, a space, and the checksum in base64",
    ),
]
_Bytes = Annotated[int, Meta(ge=0, lt=10**_DIGITS)]


_SPOKEN = {"Tus-Resumable": "The version of the protocol."}
_OFFERED = {
    "Tus-Version": "The versions that are spoken here.",
    "Tus-Extension": "What of the protocol is spoken beside its core.",
    "Tus-Max-Size": "The longest upload in bytes.",
    "Tus-Checksum-Algorithm": "What parts may be checked with.",
}
_PLACE = {
    "Upload-Offset": "How much of the upload is here, in bytes.",
    "Upload-Expires": "When the upload is removed unless it goes on.",
}
_WHOLE = {
    "Upload-Length": "Bytes of the whole.",
    "Upload-Metadata": "As it was sent.",
}


class Served(Protocol):
    """What has the uploads."""

    uploads: Uploads


class OtherVersion(MataError):
    """412: a version of the protocol that is not spoken here."""

    status = 412


class OtherType(MataError):
    """415: a part that is not sent as one."""

    status = 415


class UploadRoutes:
    """The handlers."""

    def __init__(self, ctx: Context, service: Served) -> None:
        self._ctx = ctx
        self._uploads = service.uploads
        self._writing: dict[str, asyncio.Task[Upload]] = {}

    def all(self) -> list[Route]:
        """Return the routes."""
        one, found = "/v1/uploads/{id}", (404, 412, 503)
        mine: dict[str, Any] = {"tag": "jobs", "needs": "jobs:write", "error_headers": _REFUSED}
        length = {
            "Upload-Length": (_Bytes, True, "Bytes of the whole."),
            "Upload-Metadata": (
                Annotated[str, Meta(max_length=MAX_METADATA)],
                False,
                "`filename` and its value in base64.",
            ),
        }
        part = {
            "Upload-Offset": (_Bytes, True, "Where the part begins."),
            "Upload-Checksum": (
                _Checksum,
                False,
                "`sha1` or `sha256` and the digest in base64.",
            ),
        }
        return [
            Route("OPTIONS", "/v1/uploads", self.options, "What uploads may be", tag="jobs",
                  status=204, public=True, answer_headers=_SPOKEN | _OFFERED),
            Route("POST", "/v1/uploads", self.create, "Begin an upload", status=201,
                  headers={**_TUS_VERSION, **length},
                  errors=(400, 409, 412, 413, 503, 507), answer_headers=_SPOKEN | _PLACE, **mine),
            Route("HEAD", one, self.show, "Where an upload goes on", headers=_TUS_VERSION,
                  errors=found, answer_headers=_SPOKEN | _PLACE | _WHOLE, **mine),
            Route("PATCH", one, self.append, "Go on with an upload", request=(Body(PART),),
                  status=204, headers={**_TUS_VERSION, **part},
                  errors=(400, 404, 408, 409, 412, 413, 415, 423, 460, 503, 507),
                  max_body=self._uploads.max_bytes, body_timeout="idle",
                  answer_headers=_SPOKEN | _PLACE, **mine),
            Route("DELETE", one, self.remove, "Give an upload up", status=204, headers=_TUS_VERSION,
                  errors=found, answer_headers=_SPOKEN, **mine),
        ]  # fmt: skip

    async def options(self, _request: web.Request) -> web.Response:
        """Answer what is spoken here."""
        headers = {
            "Tus-Version": VERSION,
            "Tus-Extension": "creation,expiration,termination,checksum",
            "Tus-Max-Size": str(self._uploads.max_bytes),
            "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
        }
        return web.Response(status=204, headers=_TUS | headers)

    async def create(self, request: web.Request) -> web.Response:
        """Begin an upload; 201 with its place."""
        _check_version(request)
        if "Upload-Defer-Length" in request.headers:
            raise BadRequest("Upload-Length: an upload of unknown length is not taken")
        length = _number(request, "Upload-Length")
        metadata = request.headers.get("Upload-Metadata", "")
        base = self._ctx.http.url(request)  # first: it may be refused
        made = await self._ctx.run_blocking(
            self._uploads.create, asker(request).id, length, _name(metadata), metadata
        )
        place = f"{base}/v1/uploads/{made.id}"
        return self._answer(made, 201, {hdrs.LOCATION: place})

    async def show(self, request: web.Request) -> web.Response:
        """Answer the offset where an upload continues."""
        _check_version(request)
        upload = await self._upload(request)
        headers = {"Upload-Length": str(upload.length), hdrs.CACHE_CONTROL: "no-store"}
        if upload.metadata:
            headers["Upload-Metadata"] = upload.metadata
        return self._answer(upload, 200, headers)

    async def append(self, request: web.Request) -> web.Response:
        """Add a part. An older request for the same upload ends: its client has lost it."""
        _check_version(request)
        if content_type(request) != PART:
            raise OtherType(f"A part of an upload is {PART}")
        upload = await self._upload(request)
        await self._end(upload.id)
        task = asyncio.get_running_loop().create_task(self._receive(request, upload))
        self._writing[upload.id] = task
        try:
            return self._answer(await task, 204)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            raise Conflict("A newer request goes on with this upload") from None
        finally:
            task.cancel()
            await asyncio.wait([task])
            if self._writing.get(upload.id) is task:
                del self._writing[upload.id]

    async def _end(self, upload: str) -> None:
        older = self._writing.pop(upload, None)
        if older is not None:
            older.cancel()
            await asyncio.wait([older])

    async def _receive(self, request: web.Request, upload: Upload) -> Upload:
        """Write what arrives; what came before it breaks off stays, unless it has a checksum."""
        offset = _number(request, "Upload-Offset")
        checksum = request.headers.get("Upload-Checksum", "")
        writer: Writer = await finish(
            asyncio.to_thread(self._uploads.writer, upload, offset, checksum)
        )
        try:
            async for chunk in self._ctx.http.read_chunks(request):
                await finish(asyncio.to_thread(writer.write, chunk))
            await finish(asyncio.to_thread(writer.finish))
        finally:
            await finish(asyncio.to_thread(writer.close))
        fresh: Upload = await finish(asyncio.to_thread(self._uploads.extend, upload))
        return fresh

    async def remove(self, request: web.Request) -> web.Response:
        """Remove an upload."""
        _check_version(request)
        upload = await self._upload(request)
        await self._end(upload.id)
        await self._ctx.run_blocking(self._uploads.remove, upload.id)
        return web.Response(status=204, headers=_TUS)

    async def _upload(self, request: web.Request) -> Upload:
        found: Upload = await self._ctx.run_blocking(
            self._uploads.get, request.match_info["id"], owner_of(request)
        )
        return found

    def _answer(
        self, upload: Upload, status: int, more: dict[str, str] | None = None
    ) -> web.Response:
        """Answer with the offset where an upload continues, and its expiry."""
        until = formatdate(time.time() + self._uploads.left(upload), usegmt=True)
        headers = {"Upload-Offset": str(upload.offset), "Upload-Expires": until}
        return web.Response(status=status, headers=_TUS | headers | (more or {}))


def _check_version(request: web.Request) -> None:
    if request.headers.get("Tus-Resumable") != VERSION:
        raise OtherVersion(f"Tus-Resumable: expected {VERSION}")


def _number(request: web.Request, name: str) -> int:
    """Return a header. Raises ``BadRequest`` unless it is a number from 0."""
    text = request.headers.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise BadRequest(f"{name}: expected a number of bytes")
    return int(text)


def _name(metadata: str) -> str:
    """Return the file's name within ``Upload-Metadata``. Raises ``BadRequest``."""
    if len(metadata) > MAX_METADATA or not metadata.isascii():
        raise BadRequest(f"Upload-Metadata: ASCII, {MAX_METADATA} characters at most")
    pairs = (each.strip().partition(" ") for each in metadata.split(","))
    try:
        named = {name: text for name, _, text in pairs}.get("filename", "")
        name = base64.b64decode(named, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("Upload-Metadata: filename is not base64") from None
    return name.decode(errors="replace").replace("\0", "\ufffd")[:255]
