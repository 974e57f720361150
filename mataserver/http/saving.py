"""Uploads of any size, written to a file as they arrive: no more than a chunk is in memory."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from aiohttp import hdrs
from multipart import MultipartError, MultipartSegment, PushMultipartParser

from mataserver.contract.bodies import Saved, Upload, Uploads
from mataserver.errors import BadRequest, InvalidParams, TooLarge, TooSlow
from mataserver.http.forms import FORM, MAX_FIELD_BYTES, MAX_FIELDS, boundary, declared, once
from mataserver.http.inflating import PLAIN
from mataserver.opening import open_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from mataserver.http.routing import Limits


async def save(request: web.Request, path: Path, field: str, limits: Limits) -> Saved:
    """Write the body, or a field of a form, to ``path`` when it has come wholly.

    Until then it is a hidden file beside ``path``, which is removed when the upload fails, so what
    was at ``path`` stays, and of two uploads at once the last one to end is kept whole.

    Raises ``TooLarge``, ``TooSlow``, ``BadRequest`` for a broken form, ``InvalidParams`` for one
    without the field. A full disk's ``OSError`` is answered 507 as it is.
    """
    kind, limit = declared(request)
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with contextlib.closing(await open_file(part, "xb")) as file:
            target = _Target(file)
            body = chunks(request, limits)
            if kind == FORM:
                saved = await _form(body, limit, field, target)
            else:
                async for chunk in body:
                    await target.write(chunk)
                saved = Saved(target.size, "", {})
        part.replace(path)
    except BaseException:
        await asyncio.shield(asyncio.to_thread(part.unlink, missing_ok=True))
        raise
    return saved


async def save_files(request: web.Request, folder: Path, most: int, limits: Limits) -> Uploads:
    """Write every file of a form, ``most`` parts at most, into a folder named by its number.

    Raises as ``save``; what is in the folder then is for the caller to remove.
    """
    limit = boundary(request)
    writing = _Writing(folder)
    try:
        async for event in _events(chunks(request, limits), limit, most):
            await writing.take(event)
    finally:
        writing.close()
    return Uploads(tuple(writing.files), once(writing.texts))


async def _events(
    body: AsyncIterator[bytes], boundary: str, most: int
) -> AsyncIterator[MultipartSegment | bytearray | None]:
    """Yield the beginnings, the bytes and the ends of a form's parts."""
    if not boundary:
        raise BadRequest("The multipart body has no boundary")
    try:
        parser = PushMultipartParser(
            boundary.encode("latin-1"), max_segment_count=most, header_charset="latin-1"
        )
        with parser:
            async for chunk in body:
                for event in parser.parse(chunk):
                    yield event
    except (MultipartError, UnicodeEncodeError) as error:
        raise BadRequest("The multipart body is malformed") from error


class _Writing:
    """The files of a form while they arrive."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self._segment, self._name, self._size = "", "", 0
        self._text = bytearray()
        self.files: list[Upload] = []
        self.texts: list[tuple[str, str]] = []

    async def take(self, event: MultipartSegment | bytearray | None) -> None:
        """Take an event of the parser."""
        if isinstance(event, MultipartSegment):
            await self._begin(event)
        elif event is None:
            self._end()
        elif self._file is not None:
            self._size += len(event)
            await asyncio.to_thread(self._file.write, event)
        else:
            self._text += event
            if len(self._text) > MAX_FIELD_BYTES:
                raise InvalidParams(f"{self._segment[:64]}: longer than {MAX_FIELD_BYTES} bytes")

    async def _begin(self, segment: MultipartSegment) -> None:
        self._segment, self._size, self._text = _utf8(segment.name or ""), 0, bytearray()
        if segment.filename is not None:
            self._name = _utf8(segment.filename)
            path = self._folder / str(len(self.files))
            self._file = await open_file(path, "xb")

    def _end(self) -> None:
        if self._file is None:
            self.texts.append((self._segment, _text(self._segment, self._text)))
            return
        path = Path(self._file.name)
        self.close()
        self.files.append(Upload(self._segment, self._name, path, self._size))

    def close(self) -> None:
        """Close the file that is being written, if there is one."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _utf8(text: str) -> str:
    """Return a name that was read as Latin-1, which takes any bytes, as the UTF-8 that it is."""
    return text.encode("latin-1", "replace").decode("utf-8", "replace")


def _text(name: str, data: bytearray) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidParams(f"{name[:64]}: not UTF-8 text") from None


class _Target:
    """The file of an upload."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0

    async def write(self, data: bytes | bytearray) -> None:
        """Write a chunk, beside the event loop."""
        self.size += len(data)
        await asyncio.to_thread(self._file.write, data)


async def chunks(request: web.Request, limits: Limits) -> AsyncIterator[bytes]:
    """Yield the body as it arrives. Raises ``TooLarge``, ``TooSlow``, ``BadRequest``."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower() not in PLAIN:
        raise BadRequest("An upload is not taken compressed")
    over = TooLarge(f"The body is over the limit of {limits.size} bytes")
    if (request.content_length or 0) > limits.size:  # before any of it is read and written
        raise over
    size, loop = 0, asyncio.get_running_loop()
    deadline = loop.time() + limits.seconds
    while True:
        if limits.idle:
            deadline = loop.time() + limits.seconds
        try:
            async with asyncio.timeout_at(deadline):
                chunk = await request.content.readany()
        except TimeoutError:
            raise TooSlow("The body did not arrive in time") from None
        if not chunk:
            return
        size += len(chunk)
        if size > limits.size:
            raise over
        yield chunk


async def _form(body: AsyncIterator[bytes], boundary: str, field: str, target: _Target) -> Saved:
    """Write one field of a form; keep the others, which must be short texts."""
    reading = _Reading(field)
    async for event in _events(body, boundary, MAX_FIELDS):
        data = reading.take(event)
        if data:
            await target.write(data)
    if reading.name is None:
        raise InvalidParams(f"{field}: field is required")
    return Saved(target.size, reading.name, once(reading.texts))


class _Reading:
    """Where a form is read: in the file, or in another field."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._segment = ""
        self._text = bytearray()
        self.name: str | None = None
        self.texts: list[tuple[str, str]] = []

    def take(self, event: MultipartSegment | bytearray | None) -> bytes | bytearray | None:
        """Take an event of the parser; return what belongs into the file."""
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is None:
            self._end()
        elif self._segment == self._field:
            return event
        else:
            self._text += event
            if len(self._text) > MAX_FIELD_BYTES:
                raise InvalidParams(
                    f"{self._segment[:64]}: longer than {MAX_FIELD_BYTES} bytes; "
                    f"the file's field is {self._field}"
                )
        return None

    def _begin(self, segment: MultipartSegment) -> None:
        self._segment, self._text = segment.name or "", bytearray()
        if self._segment == self._field:
            if self.name is not None:
                raise InvalidParams(f"{self._field}: given twice")
            self.name = _utf8(segment.filename or "")

    def _end(self) -> None:
        if self._segment == self._field:
            return
        self.texts.append((self._segment, _text(self._segment, self._text)))
