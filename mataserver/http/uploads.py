"""Uploads of any size, written to a file as they arrive, with one chunk in memory."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from aiohttp import hdrs
from multipart import MultipartSegment

from mataserver.contract.bodies import Saved, Upload, Uploads
from mataserver.errors import BadRequest, InvalidParams, TooLarge, TooSlow
from mataserver.finishing import open_file
from mataserver.http.bodies import TOO_SLOW
from mataserver.http.content_encoding import IDENTITY
from mataserver.http.forms import (
    FORM,
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    boundary,
    declared_type,
    field_text,
    parser,
    unique_fields,
    utf8,
)
from mataserver.http.revocation import revocable_wait

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp import web

    from mataserver.http.routing import BodyLimits


_FORM_ROOM = MAX_FIELDS * MAX_FIELD_BYTES
"""The most bytes of a form beside its file, whose own size a limit is about."""


async def save(request: web.Request, path: Path, field: str, limits: BodyLimits) -> Saved:
    """Write the body, or a field of a form, to ``path`` once it is complete.

    Until then it is a hidden file beside ``path``, removed if the upload fails: the previous file
    remains, and of two concurrent uploads the last one to finish wins. Raises ``TooLarge``,
    ``TooSlow``, ``BadRequest`` for an invalid form, ``InvalidParams`` for a missing field. A full
    disk's ``OSError`` is answered with 507.
    """
    kind, limit = declared_type(request)
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with contextlib.closing(await open_file(part, "xb")) as file:
            if kind == FORM:
                body = chunks(request, limits, _FORM_ROOM)
                saved = await _field(body, limit, field, file, limits.size)
            else:
                size = 0
                async for chunk in chunks(request, limits):
                    size += len(chunk)
                    await asyncio.to_thread(file.write, chunk)
                saved = Saved(size, "", {})
        part.replace(path)
    except BaseException:
        await asyncio.shield(asyncio.to_thread(part.unlink, missing_ok=True))
        raise
    return saved


async def _field(
    body: AsyncIterator[bytes], boundary: str, field: str, file: BinaryIO, most: int
) -> Saved:
    """Write one field of a form; return the others, which must be short texts."""

    async def open_part(segment: MultipartSegment, number: int) -> BinaryIO | None:
        if segment.name != field:
            return None
        if number:
            raise InvalidParams(f"{field}: given twice")
        return file

    parts = _Parts(open_part, f"; the file's field is {field}", most)
    await parts.read(_events(body, boundary, MAX_FIELDS))
    if not parts.files:
        raise InvalidParams(f"{field}: field is required")
    return Saved(parts.files[0].size, parts.files[0].name, unique_fields(parts.texts))


async def save_files(
    request: web.Request, folder: Path, max_parts: int, limits: BodyLimits
) -> Uploads:
    """Write every file of a form, at most ``max_parts`` parts, into a folder, named by its number.

    Raises as ``save`` does; the caller then cleans up the folder.
    """

    async def open_part(segment: MultipartSegment, number: int) -> BinaryIO | None:
        if segment.filename is None:
            return None
        return await open_file(folder / str(number), "xb")

    parts = _Parts(open_part)
    await parts.read(_events(chunks(request, limits), boundary(request), max_parts))
    return Uploads(tuple(parts.files), unique_fields(parts.texts))


async def _events(
    body: AsyncIterator[bytes], boundary: str, max_parts: int
) -> AsyncIterator[MultipartSegment | bytearray | None]:
    """Yield the starts, the bytes and the ends of a form's parts."""
    with parser(boundary, max_parts) as opened:
        async for chunk in body:
            for event in opened.parse(chunk):
                yield event


class _Parts:
    """The parts of a form as they arrive: written ``files``, and short ``texts``.

    ``open_part`` opens the file for a part, or returns None for a text; it gets the number of files
    before. It must not refer to these parts: the texts of an upload that its client breaks off
    would stay in memory until Python collects cycles, which many megabytes do not make it do. A
    file may have ``most`` bytes.
    """

    def __init__(
        self,
        open_part: Callable[[MultipartSegment, int], Awaitable[BinaryIO | None]],
        hint: str = "",
        most: float = math.inf,
    ) -> None:
        self.files: list[Upload] = []
        self.texts: list[tuple[str, str]] = []
        self._open_part = open_part
        self._hint = hint
        self._most = most
        self._file: BinaryIO | None = None
        self._field, self._name, self._size = "", "", 0
        self._text = bytearray()

    async def read(self, events: AsyncIterator[MultipartSegment | bytearray | None]) -> None:
        """Read every part; afterwards all their files are closed."""
        try:
            async for event in events:
                await self._handle(event)
        finally:
            self._close()

    async def _handle(self, event: MultipartSegment | bytearray | None) -> None:
        if isinstance(event, MultipartSegment):
            self._field, self._name = utf8(event.name or ""), utf8(event.filename or "")
            self._size, self._text = 0, bytearray()
            self._file = await self._open_part(event, len(self.files))
        elif event is None:
            self._end()
        elif self._file is not None:
            self._size += len(event)
            if self._size > self._most:
                raise _too_large(self._most)
            await asyncio.to_thread(self._file.write, event)
        else:
            self._text += event
            if len(self._text) > MAX_FIELD_BYTES:
                message = f"longer than {MAX_FIELD_BYTES} bytes{self._hint}"
                raise InvalidParams(f"{self._field[:64]}: {message}")

    def _end(self) -> None:
        if self._file is None:
            if len(self.texts) >= MAX_FIELDS:
                raise InvalidParams(f"a form has at most {MAX_FIELDS} fields beside its files")
            self.texts.append((self._field, field_text(self._field, self._text)))
            return
        path = Path(self._file.name)
        self._close()
        self.files.append(Upload(self._field, self._name, path, self._size))

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _too_large(most: float) -> TooLarge:
    return TooLarge(f"The body is over the limit of {most} bytes")


async def chunks(request: web.Request, limits: BodyLimits, room: int = 0) -> AsyncIterator[bytes]:
    """Yield the body as it arrives. Raises ``TooLarge``, ``TooSlow``, ``BadRequest``.

    It may have ``room`` bytes over the limit, whose rest the caller then watches.

    Raises ``CredentialsRevoked`` if the credentials become invalid before the body is complete.
    """
    if request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower() not in IDENTITY:
        raise BadRequest("A compressed upload is not accepted")
    most = limits.size + room
    if (request.content_length or 0) > most:  # before anything is read and written
        raise _too_large(limits.size)
    size, loop = 0, asyncio.get_running_loop()
    deadline = loop.time() + limits.seconds
    with revocable_wait(request) as wait:
        while True:
            if limits.idle:
                deadline = loop.time() + limits.seconds
            try:
                async with asyncio.timeout_at(deadline):
                    chunk = await wait.for_result(request.content.readany())
            except TimeoutError:
                raise TooSlow(TOO_SLOW) from None
            wait.check()  # a chunk that has arrived already does not wait
            if not chunk:
                return
            size += len(chunk)
            if size > most:
                raise _too_large(limits.size)
            yield chunk
