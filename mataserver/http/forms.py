"""Forms (``multipart/form-data``, RFC 7578): one file and text fields."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import hdrs
from multipart import MultipartSegment, PushMultipartParser, parse_options_header

from mataserver.contract.bodies import Form
from mataserver.errors import BadRequest, InvalidParams
from mataserver.http.bodies import UnsupportedMediaType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import web

FORM = "multipart/form-data"
FILE = "file"
MAX_FIELDS = 64
MAX_FIELD_BYTES = 65_536
PIECE = 1 << 19
"""Bytes of a body that are searched at once."""

MAX_FRAME_BYTES = 4_096
"""Bytes around a file that are kept, to recognize a client's next form by them."""
_CRLF, _END = b"\r\n", b"--\r\n"


def declared_type(request: web.Request) -> tuple[str, str]:
    """Return a body's declared content type, and its boundary."""
    kind, options = parse_options_header(request.headers.get(hdrs.CONTENT_TYPE, ""))
    return kind, str(options.get("boundary", ""))


def boundary(request: web.Request) -> str:
    """Return the boundary of a form's parts, empty if it is not declared.

    Raises ``UnsupportedMediaType`` for a body that is no form.
    """
    kind, limit = declared_type(request)
    if kind != FORM:
        raise UnsupportedMediaType(f"Content-Type must be {FORM}")
    return limit


@contextlib.contextmanager
def parser(boundary: str, max_parts: int = MAX_FIELDS) -> Iterator[PushMultipartParser]:
    """Return a parser of one form. Raises ``BadRequest`` for a malformed one."""
    if not boundary:
        raise BadRequest("The multipart body has no boundary")
    try:
        # Latin-1 accepts any bytes: names may have any encoding.
        with PushMultipartParser(
            boundary.encode("latin-1"), max_segment_count=max_parts, header_charset="latin-1"
        ) as opened:
            yield opened
    except ValueError:  # a MultipartError, or a boundary that is not Latin-1
        raise BadRequest("The multipart body is malformed") from None


class _Part(NamedTuple):
    name: str
    content: bytes
    has_file_name: bool
    """Whether it has a file name."""


def parse(data: bytes, boundary: str, field: str = FILE) -> Form:
    """Split a body into the bytes of the file ``field`` and the text fields.

    Raises ``BadRequest`` for a malformed form, ``InvalidParams`` for duplicate fields, for fields
    that are not text, and for a missing file.
    """
    parts: list[_Part] = []
    for _ in _steps(data, boundary, parts):
        pass
    return _form(parts, field)


class FormFrame(NamedTuple):
    """All of a form but its boundary and its file: a client's next form often has the same.

    ``before`` and ``after`` are what its boundaries separate, up to the file and behind it.
    """

    before: list[bytes]
    after: list[bytes]

    def file_in(self, data: bytes, boundary: bytes) -> bytes | None:
        """Return the file of a form with this frame; None if it has another one, or no file."""
        limit = b"--" + boundary
        begin, end = limit.join(self.before), limit.join(self.after)
        start, stop = len(begin), len(data) - len(end)
        if not (data.startswith(begin) and data.endswith(end)):
            return None
        return None if data.find(limit, start, stop) >= 0 else data[start:stop] or None


def frame(data: bytes, boundary: bytes, file: bytes) -> FormFrame | None:
    """Return the frame of a form that was parsed, None if it is long or unusual.

    It has no other ``--`` than that of the end, so that no boundary can be within a text, and no
    length of the file, which a parser compares with it.
    """
    empty, *parts, last = data.split(b"--" + boundary, MAX_FIELDS + 1)
    places = [at for at, part in enumerate(parts) if part.endswith(file, 0, -len(_CRLF))]
    if empty or last != _END or len(places) != 1:
        return None
    place = places[0]
    whole, parts[place] = parts[place], parts[place][: -len(file + _CRLF)]
    kept = sum(map(len, parts)) <= MAX_FRAME_BYTES
    lines = all(part.startswith(_CRLF) and part.endswith(_CRLF) for part in (*parts, whole))
    counted = b"content-length" in parts[place].lower()
    if counted or not (kept and lines) or any(b"--" in part for part in parts):
        return None
    return FormFrame([b"", *parts[: place + 1]], [_CRLF, *parts[place + 1 :], last])


async def read(data: bytes, boundary: str, field: str = FILE) -> Form:
    """Like ``parse``; other requests have their turn between the pieces of a large body.

    To look for a boundary of one letter in a body that nearly has it everywhere takes 8 ns a byte.
    """
    parts: list[_Part] = []
    for _ in _steps(data, boundary, parts):
        await asyncio.sleep(0)
    return _form(parts, field)


def _form(parts: list[_Part], field: str) -> Form:
    files = [each for each in parts if each.name == field]
    if len(files) > 1:
        raise InvalidParams(f"{field}: given twice")
    if not files:
        raise InvalidParams(_missing_file_error(parts, field))
    if not files[0].content:
        raise BadRequest("Uploaded file is empty")
    texts = [
        (each.name, field_text(each.name, each.content)) for each in parts if each.name != field
    ]
    return Form(files[0].content, unique_fields(texts))


def _missing_file_error(parts: list[_Part], field: str) -> str:
    """Return the error for a missing file, with a hint if one has another field name."""
    other = next((each.name for each in parts if each.has_file_name), None)
    hint = "" if other is None else f"; send {other[:64]!r} as `{field}`"
    return f"{field}: field is required{hint}"


def unique_fields(items: list[tuple[str, str]]) -> dict[str, str]:
    """Return the fields by name. Raises ``InvalidParams`` for a duplicate."""
    fields: dict[str, str] = {}
    for name, value in items:
        if name in fields:
            raise InvalidParams(f"{name[:64]}: given twice")
        fields[name] = value
    return fields


def _steps(data: bytes, boundary: str, found: list[_Part]) -> Iterator[None]:
    """Fill the parts that are ``found``; yield between the pieces of a large body."""
    chunks: list[bytes] = []
    segment: MultipartSegment | None = None
    with parser(boundary) as opened:
        for at in range(0, max(1, len(data)), PIECE):
            piece = data[at : at + PIECE]
            for event in opened.parse(piece):
                if isinstance(event, MultipartSegment):
                    segment, chunks = event, []
                elif event:
                    chunks.append(bytes(event))
                elif segment is not None:
                    found.append(_part(segment, b"".join(chunks)))
            if len(piece) < len(data):
                yield


def _part(segment: MultipartSegment, content: bytes) -> _Part:
    name = utf8(segment.name or "")
    if not name:
        raise BadRequest("The multipart body has a part without a name")
    has_file_name = "filename" in segment.header("Content-Disposition", "").lower()
    return _Part(name, content, has_file_name)


def utf8(text: str) -> str:
    """Convert a name that was decoded as Latin-1 to UTF-8."""
    return text.encode("latin-1", "replace").decode("utf-8", "replace")


def field_text(name: str, content: bytes | bytearray) -> str:
    """Return the text of a field. Raises ``InvalidParams``."""
    if len(content) > MAX_FIELD_BYTES:
        raise InvalidParams(f"{name[:64]}: longer than {MAX_FIELD_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise InvalidParams(f"{name[:64]}: not UTF-8 text") from None
