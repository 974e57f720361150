"""What the body of an inference says that the gateway must know: its sequence, and shared memory.

A region of shared memory is the Triton's: whoever names one that another program registered has
its bytes read as inputs, or overwritten with outputs. So a consumer names none, unless the
settings let an application's consumers do.

The body goes on as it came. Of a compressed one the JSON is inflated to be looked at, a little at
a time beside the event loop: a thousandth of a body can be the whole of it.
"""

from __future__ import annotations

import asyncio
import functools
import re
import sys
import zlib
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mataserver import BadRequest, sole_value
from mataserver_fleet.gateway.bodies import BodyTooLarge, StreamingBody
from mataserver_fleet.gateway.headers import HEADER_LENGTH
from mataserver_fleet.gateway.sequences import SequenceStep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from multidict import CIMultiDictProxy

    from mataserver import Share
    from mataserver_fleet.gateway.bodies import BufferedBody

    Headers = CIMultiDictProxy[str]

REGION, SEQUENCE = "shared_memory_region", "sequence_id"
MOST_INFLATED = 1 << 26
"""Bytes of JSON that are looked at of a compressed body."""
_AT_ONCE = 1 << 20
"""Bytes of JSON in pieces that are looked at without a pause."""
_PIECE = 1 << 18
"""Bytes that are inflated at a time: about a millisecond's."""
_ENCODINGS = frozenset({"gzip", "x-gzip", "deflate"})
_EITHER, _RAW = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS
"""Of gzip and zlib what the body is; and neither, as many send what they call deflate."""
_MOST_MEMBERS = 4_096
"""Members of a gzip body that are looked at."""
_SPACE = b" \t\r\n"


class _Parameters(Struct):
    sequence_id: int | str | UnsetType = UNSET
    sequence_start: bool = False
    sequence_end: bool = False


class _Body(Struct):
    parameters: _Parameters | None = None


class KeyFinder:
    r"""Tells whether a text that comes in pieces has a key of a JSON object.

    However it is cut, and though letters be written as ``\u0061``: other escapes give no letter.
    """

    def __init__(self, name: str) -> None:
        self._pattern = _pattern(name)
        self._plain = name.encode()
        self._width = 6 * len(name) + 1
        self._before = b""

    def in_next(self, text: bytes) -> bool:
        """Whether the next piece of the text has the key, or ends it."""
        if self._before:
            text = self._before + text
        self._before = text[-self._width :]
        if self._plain not in text and not (b"\\" in text and b"\\u" in text):
            return False
        for match in self._pattern.finditer(text):
            if match[1]:
                return True
            self._before = match[0].rstrip(_SPACE)  # the colon may come with the next piece
        return False


@functools.cache
def _pattern(name: str) -> re.Pattern[bytes]:
    """Return what finds a key; the colon may be missing at the end."""
    letters = b"".join(map(_either_way, name.encode()))
    return re.compile(rb'"%b"[ \t\r\n]*(:|\Z)' % letters)


def _either_way(letter: int) -> bytes:
    """Return the pattern of a letter as it is and as its escape, whose digits have no case."""
    digits = b"%02x" % letter
    escape = rb"\\u00%b[%b%b]" % (digits[:1], digits[1:], digits[1:].upper())
    return rb"(?:%b|%b)" % (re.escape(bytes((letter,))), escape)


class JsonPart:
    """The JSON of a body, out of its pieces: what tensors follow it is not looked at.

    Raises ``BadRequest`` for a field twice that tells where it ends or how it is compressed: the
    server might go by the other one.
    """

    def __init__(self, headers: Headers) -> None:
        length = sole_value(HEADER_LENGTH, headers.getall(HEADER_LENGTH, ()))
        encoding = sole_value("Content-Encoding", headers.getall("Content-Encoding", ()))
        told = length.isascii() and length.isdigit() and len(length) < 19
        self._left = int(length) if told else sys.maxsize
        self._encoding = encoding.strip().lower()
        self.compressed = self._encoding in _ENCODINGS
        self._inner: Any = None
        self._members = 0
        self._room = MOST_INFLATED

    @property
    def ended(self) -> bool:
        """Whether what follows is no part of it."""
        return not self._left

    def told(self, size: int) -> int | None:
        """Return where the JSON of a body of ``size`` bytes ends, if what comes before tells.

        None for a compressed one, and for more than is looked at in one go.
        """
        known = self._left < size and self._left <= _AT_ONCE and not self.compressed
        return self._left if known else None

    def is_plainly_without(self, pieces: Sequence[bytes | memoryview], size: int) -> bool:
        """Whether a body tells nothing that the gateway must know: most do not.

        False for more JSON in pieces than is looked at in one go.
        """
        needed = min(self._left, size)
        if self.compressed or (len(pieces) > 1 and needed > _AT_ONCE):
            return False
        text = bytearray()
        for piece in pieces:  # often the head came alone, and the first one is empty
            text += piece[: needed - len(text)]
            if len(text) == needed:
                break
        return not (b"\\" in text or SEQUENCE.encode() in text or REGION.encode() in text)

    async def texts(self, piece: bytes) -> AsyncIterator[bytes]:
        """Yield what the next piece of the body has of the JSON.

        Raises ``BodyTooLarge`` for too much that is compressed, and ``BadRequest`` for what is damaged:
        a server may take of it what cannot be seen here.
        """
        if not self.compressed:
            yield self._cut(piece)
            return
        for at in range(0, len(piece), _PIECE):
            part = piece[at : at + _PIECE]  # zlib copies what it leaves, each time
            while part and self._left:
                text, part = await self._inflated(part)
                yield self._cut(text)

    def _cut(self, text: bytes) -> bytes:
        text = text[: self._left]
        self._left -= len(text)
        return text

    async def _inflated(self, piece: bytes) -> tuple[bytes, bytes]:
        """Return some text, and what is left of a piece. Raises ``BodyTooLarge`` and ``BadRequest``."""
        if self._inner is None or self._inner.eof:  # gzip's members follow each other
            self._inner = zlib.decompressobj(self._window(piece[0]))
            self._members += 1
        inner = self._inner
        try:
            text = await asyncio.to_thread(inner.decompress, piece, min(_PIECE, self._left))
        except zlib.error:
            raise BadRequest("The body is not what its Content-Encoding says") from None
        self._room -= len(text)
        if self._room < 0 or self._members > _MOST_MEMBERS:
            raise BodyTooLarge(
                f"Over {MOST_INFLATED} bytes of JSON are compressed: send it as it is"
            )
        return text, inner.unconsumed_tail or inner.unused_data

    def _window(self, first: int) -> int:
        """Return what a body is by its first byte; no compressor begins raw data as zlib does."""
        headed = first & 15 == 8 or first == 0x1F
        return _EITHER if headed or self._encoding != "deflate" else _RAW


async def look(
    body: BufferedBody | StreamingBody, headers: Headers, share: Share, *, regions: bool
) -> SequenceStep | None:
    """Return the step of a sequence that an inference is; None for one that is of none.

    regions: whether it may name regions of shared memory. Of a body that passes through what has
             not arrived yet is looked at when it has.
    share:   holds what is inflated until this returns.

    Raises ``BadRequest``, ``BodyTooLarge`` and ``Unavailable``.
    """
    passes = isinstance(body, StreamingBody)
    if isinstance(body, StreamingBody):
        body.watch = _StreamInspector(headers, regions=regions).see
    try:
        return await _look(body.known(), headers, share, regions=regions, passes=passes)
    finally:
        share.give_back()


async def _look(
    pieces: Sequence[bytes], headers: Headers, share: Share, *, regions: bool, passes: bool
) -> SequenceStep | None:
    part = JsonPart(headers)
    if len(pieces) == 1 and part.is_plainly_without(pieces, len(pieces[0])):
        return None
    region, sequence = KeyFinder(REGION), KeyFinder(SEQUENCE)
    found, texts = False, []
    for piece in pieces:
        if part.ended:
            break
        async for text in part.texts(piece):
            if not regions and region.in_next(text):
                raise refusal()
            found = sequence.in_next(text) or found
            if part.compressed:
                share.take(len(text))
            texts.append(text)
        if len(pieces) > 1:
            await asyncio.sleep(0)  # others get their turn
    if not found:
        return None
    if passes and not part.ended:
        raise _too_late()
    return step_of(b"".join(texts))


class _StreamInspector:
    """Looks at a body that passes through; what came first of it was looked at for a sequence."""

    def __init__(self, headers: Headers, *, regions: bool) -> None:
        self._part = JsonPart(headers)
        self._region = None if regions else KeyFinder(REGION)
        self._sequence = KeyFinder(SEQUENCE)
        self._begun = False

    async def see(self, piece: bytes) -> None:
        """Look at the next piece. Raises ``BadRequest`` and ``BodyTooLarge``."""
        async for text in self._part.texts(piece):
            if self._region is not None and self._region.in_next(text):
                raise refusal()
            if text and self._sequence.in_next(text) and self._begun:
                raise _too_late()
        self._begun = True


def step_of(text: bytes) -> SequenceStep | None:
    """Return what the JSON of an inference says of a sequence; None for one that is of none.

    The text has the name of its number. Raises ``BadRequest`` where it stands twice, or where
    nothing is read there: another reader, who takes the first of two, say, might find something.
    """
    if sum(bool(each[1]) for each in _pattern(SEQUENCE).finditer(text)) > 1:
        raise BadRequest(f"{SEQUENCE}: it is there twice")
    try:
        found = msgspec.json.decode(text, type=_Body).parameters
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest(f"{SEQUENCE}: the request that has it is not valid") from None
    if found is None or found.sequence_id is UNSET:
        raise BadRequest(f"{SEQUENCE}: it is none of the request's own parameters")
    if found.sequence_id in {0, ""}:
        return None
    return SequenceStep(found.sequence_id, found.sequence_start, found.sequence_end)


def _too_late() -> BadRequest:
    """Return why a long request of a sequence is refused: it might go to another server."""
    return BadRequest(
        f"{SEQUENCE}: such a request is taken up to buffer_mb, or with its JSON first"
    )


def refusal() -> BadRequest:
    """Return why an inference with shared memory is refused."""
    return BadRequest(f"{REGION}: consumers of this application name no shared memory")
