"""Decoding of request bodies to typed values, and encoding of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from aiohttp.payload import Payload
from msgspec import Meta
from multipart import parse_options_header

from mataserver.http import accept_header
from mataserver.http.bodies import UnsupportedMediaType
from mataserver.http.protocol import CompleteResponse

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.abc import AbstractStreamWriter

    from mataserver.contract.envelope import Format
    from mataserver.contract.handles import Encoded

JSON = "application/json"
MSGPACK = "application/msgpack"
UNSPECIFIC_TYPES = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})
"""Content types that say nothing about the body, which is inspected instead; the last is curl's
default. A web page may send such bodies, and forms, to another origin without a preflight."""
HEAD_CHUNK = 1 << 14
"""Bytes of a long body that are copied into the write of the headers; the rest is not copied."""
UTF8_CHARSETS = frozenset({"", "ascii", "us-ascii", "utf-8", "utf8"})
"""Declared charsets that are accepted for JSON: none, UTF-8 and its subset."""
SINGLE_WRITE_BYTES = 2 * HEAD_CHUNK
"""Maximum bytes of a body that is sent in one write with its headers."""

ModelName = Annotated[str, Meta(min_length=1, max_length=512)]


def encode(value: object, form: Format = "json") -> bytes:
    """Encode a struct as JSON or MessagePack; bytes were encoded by a worker and stay unchanged."""
    if isinstance(value, bytes):
        return value
    return msgspec.json.encode(value) if form == "json" else msgspec.msgpack.encode(value)


class LargePayload(Payload):
    """A long body, written separately from the headers: aiohttp would copy both into one buffer."""

    _autoclose = True

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._size = len(body)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the beginning, which is sent with the headers, then the rest without a copy."""
        body = memoryview(self._value)
        await writer.write(body[:HEAD_CHUNK])
        await writer.write(body[HEAD_CHUNK:])


def requested_format(request: web.Request) -> Format:
    """Return the answer's format according to ``Accept``; JSON without it."""
    accept = request.headers.get("Accept")
    return "json" if accept is None else accept_header.best_format(accept)[0]


def respond(
    value: object, *, status: int = 200, form: Format = "json", timing: str | None = None
) -> web.Response:
    """Answer with a struct, or with a body; ``timing`` is the header ``Server-Timing``."""
    headers = {"Content-Type": JSON if form == "json" else MSGPACK}
    if timing is not None:
        headers["Server-Timing"] = timing
    body = encode(value, form)
    whole = body if len(body) <= SINGLE_WRITE_BYTES else LargePayload(body)
    return CompleteResponse(body=whole, status=status, headers=headers)


def server_timing(answer: Encoded) -> str:
    """Return the value of ``Server-Timing`` for an inference; durations in milliseconds."""
    return (
        f"decode;dur={answer.decode:.3f}, queue;dur={answer.queue:.3f}, "
        f"infer;dur={answer.infer:.3f}, encode;dur={answer.encode:.3f}"
    )


def content_type(request: web.Request) -> str:
    """Return the declared content type in lower case, empty if there is none.

    aiohttp's parser takes a tenth of a millisecond for each character of its parameters.
    """
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Whether a content type is JSON's."""
    return kind == JSON or kind.endswith("+json")


def require_json(request: web.Request) -> None:
    """Raise ``UnsupportedMediaType`` unless the body is declared as JSON, in UTF-8."""
    if not is_json(content_type(request)):
        raise UnsupportedMediaType(f"Content-Type must be {JSON}")
    check_charset(request)


def check_charset(request: web.Request) -> None:
    """Raise 415 for a body whose declared charset is not UTF-8.

    JSON is decoded as UTF-8 (RFC 8259), so text in another encoding would be misread.
    """
    declared = request.headers.get("Content-Type", "")
    options = parse_options_header(declared)[1] if ";" in declared else {}
    charset = str(options.get("charset", "")).lower()
    if charset not in UTF8_CHARSETS:
        raise UnsupportedMediaType(f"JSON is read as UTF-8, and this is said to be {charset[:32]}")
