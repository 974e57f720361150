"""Bytes of requests to typed values, typed values to bytes of responses.

A body is read whole, within its size limit, a time limit and a share of one global budget.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from aiohttp import hdrs
from aiohttp.payload import Payload
from msgspec import Meta

from mataserver.errors import MataError, TooLarge, TooSlow
from mataserver.http import jsonbody
from mataserver.http.budget import BudgetShare
from mataserver.http.inflating import ENCODINGS, PLAIN, Inflater
from mataserver.http.protocol import Whole

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    Chunks = Callable[[], Awaitable[bytes]]

    from aiohttp.abc import AbstractStreamWriter

    from mataserver.contract.envelope import Format
    from mataserver.contract.handles import Encoded
    from mataserver.http.budget import Budget
    from mataserver.http.routing import Limits

JSON = "application/json"
MSGPACK = "application/msgpack"
UNSAID = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})
"""Content types that tell nothing, the last one because curl sends it unasked: the body is looked
at. A web page may send such a body, and a form, to another origin without asking first."""
LONG = 1 << 14
"""Bytes of a long body that are copied; the rest is not."""
CHARSETS = frozenset({"", "ascii", "us-ascii", "utf-8", "utf8"})
"""What JSON may be said to be written in: nothing, which is UTF-8, or what means the same."""
WHOLE = 2 * LONG
"""Bytes of a body that leaves with its head at most."""
TOO_SLOW = "The body did not arrive in time"

ModelName = Annotated[str, Meta(min_length=1, max_length=512)]

T = TypeVar("T")


class Unsupported(MataError):
    """415: a content type that the route does not take."""

    status = 415


def encode(value: object, form: Format = "json") -> bytes:
    """Encode a struct as JSON or MessagePack; bytes are what a worker has encoded already."""
    if isinstance(value, bytes):
        return value
    return msgspec.json.encode(value) if form == "json" else msgspec.msgpack.encode(value)


class Apart(Payload):
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
        await writer.write(body[:LONG])
        await writer.write(body[LONG:])


def wanted_format(request: web.Request) -> Format:
    """Return the answer's format: MessagePack when ``Accept`` names it before JSON."""
    accepted = request.headers.get("Accept")
    if accepted is None:
        return "json"
    for choice in accepted.split(","):
        kind = choice.partition(";")[0].strip().lower()
        if kind in {MSGPACK, "application/x-msgpack"}:
            return "msgpack"
        if kind in {JSON, "*/*", "application/*"}:
            return "json"
    return "json"


def respond(
    value: object, *, status: int = 200, form: Format = "json", timing: str | None = None
) -> web.Response:
    """Answer with a struct, or with a body; ``timing`` is the header ``Server-Timing``."""
    headers = {"Content-Type": JSON if form == "json" else MSGPACK}
    if timing is not None:
        headers["Server-Timing"] = timing
    body = encode(value, form)
    whole = body if len(body) <= WHOLE else Apart(body)
    return Whole(body=whole, status=status, headers=headers)


def stages(answer: Encoded) -> str:
    """Return what ``Server-Timing`` tells of an inference."""
    return (
        f"decode;dur={answer.decode:.3f}, queue;dur={answer.queue:.3f}, "
        f"infer;dur={answer.infer:.3f}, encode;dur={answer.encode:.3f}"
    )


class body:  # noqa: N801 - a context manager, named as what it gives
    """Reads the body; its share of the global budget is given back when the context ends.

    A class, because ``asynccontextmanager`` costs more than the rest of it. Raises ``TooLarge``,
    ``TooSlow``, ``Unsupported`` for a content encoding other than gzip and deflate, ``BadRequest``
    for what is damaged, or ``Unavailable`` when too much is in flight.
    """

    __slots__ = ("_limits", "_request", "_share")

    def __init__(self, request: web.Request, budget: Budget, limits: Limits) -> None:
        self._request = request
        self._limits = limits
        self._share = BudgetShare(budget)

    async def __aenter__(self) -> bytes:
        """Return the whole body; who drops it once it is decoded frees its memory."""
        request, limit = self._request, self._limits.size
        content = request.content
        if content.is_eof() and hdrs.CONTENT_ENCODING not in request.headers:
            # The common case, all of which is here: it needs no timer and no coroutines.
            found = content.read_nowait()
            self._share.cover(len(found), limit)
            return found
        expected = request.content_length
        if expected is not None and expected > limit:
            raise TooLarge(f"The body is over the limit of {limit} bytes")
        try:
            self._share.check(expected or 0)
            return await _read_in_time(request, self._limits, self._share)
        except BaseException:
            self._share.give_back()
            raise

    async def __aexit__(self, *exc: object) -> None:
        """Give the share back."""
        self._share.give_back()


async def _read_in_time(request: web.Request, limits: Limits, share: BudgetShare) -> bytes:
    encoding = request.headers.get(hdrs.CONTENT_ENCODING)
    read = _read if encoding is None else functools.partial(_inflate, encoding.strip().lower())
    limit, seconds, idle = limits
    try:
        async with asyncio.timeout(seconds) as timer:
            chunks = request.content.readany
            return await read(_awaited(chunks, timer, seconds) if idle else chunks, limit, share)
    except TimeoutError:
        raise TooSlow(TOO_SLOW) from None


def _awaited(chunks: Chunks, timer: asyncio.Timeout, seconds: float) -> Chunks:
    """Begin a timer anew with each chunk: what goes on arriving is in time."""

    async def awaited() -> bytes:
        chunk = await chunks()
        timer.reschedule(asyncio.get_running_loop().time() + seconds)
        return chunk

    return awaited


async def _read(chunks: Chunks, limit: int, share: BudgetShare) -> bytes:
    found, size = [], 0
    while chunk := await chunks():
        size += len(chunk)
        share.cover(size, limit)
        found.append(chunk)
    return found[0] if len(found) == 1 else b"".join(found)


async def _inflate(encoding: str, chunks: Chunks, limit: int, share: BudgetShare) -> bytes:
    """Read a compressed body; its size is that of what it holds."""
    if encoding in PLAIN:
        return await _read(chunks, limit, share)
    if encoding not in ENCODINGS:
        raise Unsupported("Content-Encoding must be gzip, deflate or identity")
    inflater, pieces, size = Inflater(encoding), [], 0
    while chunk := await chunks():
        for piece in inflater.pieces(chunk):
            size += len(piece)
            share.cover(size, limit)
            pieces.append(piece)
            await asyncio.sleep(0)  # others get their turn between two pieces
    pieces.append(inflater.rest())
    return b"".join(pieces)


def json_of(kind: type[T]) -> Callable[[bytes], T]:
    """Return what decodes a JSON body to a ``kind``; see ``jsonbody.decode`` for what it raises."""
    return functools.partial(jsonbody.decode, kind=kind)


def content_type(request: web.Request) -> str:
    """Return the declared content type in lower case, empty when there is none."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Whether a content type is JSON's."""
    return kind == JSON or kind.endswith("+json")


def require_json(request: web.Request) -> None:
    """Raise ``Unsupported`` unless the body is declared as JSON, in UTF-8."""
    if not is_json(content_type(request)):
        raise Unsupported(f"Content-Type must be {JSON}")
    check_charset(request)


def check_charset(request: web.Request) -> None:
    """Raise ``Unsupported`` for a body that is declared as text of another encoding than UTF-8.

    JSON is UTF-8 (RFC 8259), and is read as that: what is called another would be misread.
    """
    said = request.headers.get("Content-Type", "")
    charset = (request.charset or "").lower() if ";" in said else ""
    if charset not in CHARSETS:
        raise Unsupported(f"JSON is read as UTF-8, and this is said to be {charset[:32]}")
