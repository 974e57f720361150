"""Bytes of requests to typed values, typed values to bytes of responses; ``bodies`` reads them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from aiohttp.payload import Payload
from msgspec import Meta
from multipart import parse_options_header

from mataserver.http import accept_header, json_body
from mataserver.http.bodies import UnsupportedMediaType
from mataserver.http.protocol import CompleteResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web
    from aiohttp.abc import AbstractStreamWriter

    from mataserver.contract.envelope import Format
    from mataserver.contract.handles import Encoded

JSON = "application/json"
MSGPACK = "application/msgpack"
UNSPECIFIC_TYPES = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})
"""Content types that tell nothing, the last one because curl sends it unasked: the body is looked
at. A web page may send such a body, and a form, to another origin without asking first."""
HEAD_CHUNK = 1 << 14
"""Bytes of a long body that are copied; the rest is not."""
UTF8_CHARSETS = frozenset({"", "ascii", "us-ascii", "utf-8", "utf8"})
"""What JSON may be said to be written in: nothing, which is UTF-8, or what means the same."""
SINGLE_WRITE_BYTES = 2 * HEAD_CHUNK
"""Bytes of a body that leaves with its head at most."""

ModelName = Annotated[str, Meta(min_length=1, max_length=512)]

T = TypeVar("T")


def encode(value: object, form: Format = "json") -> bytes:
    """Encode a struct as JSON or MessagePack; bytes are what a worker has encoded already."""
    if isinstance(value, bytes):
        return value
    return msgspec.json.encode(value) if form == "json" else msgspec.msgpack.encode(value)


class LargePayload(Payload):
    """A long body that is written apart from the headers: aiohttp would copy it behind them."""

    _autoclose = True

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._size = len(body)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the beginning, which goes with the headers, and then the rest where it lies."""
        body = memoryview(self._value)
        await writer.write(body[:HEAD_CHUNK])
        await writer.write(body[HEAD_CHUNK:])


def requested_format(request: web.Request) -> Format:
    """Return the answer's format, as ``Accept`` asks for it."""
    return accept_header.preferred_format(request.headers.get("Accept"))


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
    """Return what ``Server-Timing`` tells of an inference."""
    return (
        f"decode;dur={answer.decode:.3f}, queue;dur={answer.queue:.3f}, "
        f"infer;dur={answer.infer:.3f}, encode;dur={answer.encode:.3f}"
    )


def json_decoder(kind: type[T]) -> Callable[[bytes], T]:
    """Return a decoder of JSON bodies to ``kind``, which raises as ``json_body.decode`` does."""
    return functools.partial(json_body.decode, kind=kind)


def content_type(request: web.Request) -> str:
    """Return the declared content type in lower case, empty when there is none.

    aiohttp's takes a tenth of a millisecond for each character that a client puts behind it.
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
    """Raise 415 for a body that is declared as text of another encoding than UTF-8.

    JSON is UTF-8 (RFC 8259), and is read as that: what is called another would be misread.
    """
    declared = request.headers.get("Content-Type", "")
    options = parse_options_header(declared)[1] if ";" in declared else {}
    charset = str(options.get("charset", "")).lower()
    if charset not in UTF8_CHARSETS:
        raise UnsupportedMediaType(f"JSON is read as UTF-8, and this is said to be {charset[:32]}")
