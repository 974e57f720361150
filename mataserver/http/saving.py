"""Uploads of any size, written to a file as they arrive: no more than a chunk is in memory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING, BinaryIO

from aiohttp import hdrs
from multipart import (
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from mataserver.errors import BadRequest, InvalidParams, OutOfMemory, TooLarge, TooSlow
from mataserver.http.forms import MAX_FIELD_BYTES, MAX_FIELDS, once
from mataserver.http.inflating import PLAIN
from mataserver.service import Saved

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp import web

    from mataserver.http.routing import Limits

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FORM = "multipart/form-data"


class NoRoom(OutOfMemory):
    """507: the disk is full."""


async def save(request: web.Request, path: Path, field: str, limits: Limits) -> Saved:
    """Write the body, or a field of a form, to ``path``; remove it when that fails.

    Raises ``TooLarge``, ``TooSlow``, ``BadRequest`` for a broken form, ``InvalidParams`` for one
    without the field, ``NoRoom`` when the disk is full.
    """
    if request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower() not in PLAIN:
        raise BadRequest("An upload is not taken compressed")
    kind, options = parse_options_header(request.headers.get(hdrs.CONTENT_TYPE, ""))
    file = await asyncio.to_thread(path.open, "wb")
    try:
        with contextlib.closing(file):
            target = _Target(file)
            chunks = _chunks(request, limits)
            if kind == FORM:
                saved = await _form(chunks, options.get("boundary", ""), field, target)
            else:
                async for chunk in chunks:
                    await target.write(chunk)
                saved = Saved(target.size, "", {})
    except BaseException as error:
        await asyncio.shield(asyncio.to_thread(path.unlink, missing_ok=True))
        if isinstance(error, OSError) and error.errno in _FULL:
            raise NoRoom("The disk is full") from error
        raise
    return saved


class _Target:
    """The file of an upload."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0

    async def write(self, data: bytes | bytearray) -> None:
        """Write a chunk, beside the event loop."""
        self.size += len(data)
        await asyncio.to_thread(self._file.write, data)


async def _chunks(request: web.Request, limits: Limits) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, within its limits."""
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
            raise TooLarge(f"The body is over the limit of {limits.size} bytes")
        yield chunk


async def _form(chunks: AsyncIterator[bytes], boundary: str, field: str, target: _Target) -> Saved:
    """Write one field of a form; keep the others, which must be short texts."""
    if not boundary:
        raise BadRequest("The multipart body has no boundary")
    reading = _Reading(field)
    try:
        parser = PushMultipartParser(
            boundary.encode("latin-1"), max_segment_count=MAX_FIELDS, header_charset="latin-1"
        )
        with parser:
            async for chunk in chunks:
                for event in parser.parse(chunk):
                    data = reading.take(event)
                    if data:
                        await target.write(data)
    except (MultipartError, UnicodeEncodeError) as error:
        raise BadRequest("The multipart body is malformed") from error
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
                raise InvalidParams(f"{self._segment[:64]}: longer than {MAX_FIELD_BYTES} bytes")
        return None

    def _begin(self, segment: MultipartSegment) -> None:
        self._segment, self._text = segment.name or "", bytearray()
        if self._segment == self._field:
            if self.name is not None:
                raise InvalidParams(f"{self._field}: given twice")
            name = segment.filename or ""
            self.name = name.encode("latin-1", "replace").decode("utf-8", "replace")

    def _end(self) -> None:
        if self._segment == self._field:
            return
        try:
            self.texts.append((self._segment, self._text.decode()))
        except UnicodeDecodeError:
            raise InvalidParams(f"{self._segment[:64]}: not UTF-8 text") from None
