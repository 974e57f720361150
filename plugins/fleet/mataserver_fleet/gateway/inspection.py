"""Inspects the body of an inference for what the gateway must know: sequence and shared memory.

A region of shared memory belongs to the Triton: a request that names one that another program
registered has its bytes read as inputs, or overwritten with outputs. So consumers may name none,
unless the settings permit it to an application's consumers.

The body is forwarded as it came. Of a compressed one the JSON is inflated for inspection, a piece
at a time in a thread: a thousandth of a body can be the whole of it.
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
MAX_INFLATED = 1 << 26
"""Bytes of JSON that are looked at of a compressed body."""
_MAX_WITHOUT_PAUSE = 1 << 20
"""Bytes of JSON in pieces that are looked at without a pause."""
_PIECE = 1 << 18
"""Bytes that are inflated at a time: about a millisecond's."""
_ENCODINGS = frozenset({"gzip", "x-gzip", "deflate"})
_EITHER, _RAW = 32 + zlib.MAX_WBITS, -zlib.MAX_WBITS
"""Of gzip and zlib what the body is; and neither, as many send what they call deflate."""
_MAX_MEMBERS = 4_096
"""Members of a gzip body that are looked at."""
_WHITESPACE = b" \t\r\n"


class _Parameters(Struct):
    sequence_id: int | str | UnsetType = UNSET
    sequence_start: bool = False
    sequence_end: bool = False


class _Body(Struct):
    parameters: _Parameters | None = None


class KeyFinder:
    r"""Finds a key of a JSON object in a text that arrives in pieces.

    However it is cut, and though letters be written as ``\u0061``: other escapes give no letter.
    """

    def __init__(self, name: str) -> None:
        self._key_pattern = _key_pattern(name)
        self._plain = name.encode()
        self._width = 6 * len(name) + 1
        self._tail = b""

    def feed(self, text: bytes) -> bool:
        """Whether the next piece of the text has the key, or ends it."""
        if self._tail:
            text = self._tail + text
        self._tail = text[-self._width :]
        if self._plain not in text and not (b"\\" in text and b"\\u" in text):
            return False
        for match in self._key_pattern.finditer(text):
            if match[1]:
                return True
            self._tail = match[0].rstrip(_WHITESPACE)  # the colon may come with the next piece
        return False


@functools.cache
def _key_pattern(name: str) -> re.Pattern[bytes]:
    """Return what finds a key; the colon may be missing at the end."""
    letters = b"".join(map(_letter_pattern, name.encode()))
    return re.compile(rb'"%b"[ \t\r\n]*(:|\Z)' % letters)


def _letter_pattern(letter: int) -> bytes:
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
        is_number = length.isascii() and length.isdigit() and len(length) < 19
        self._remaining = int(length) if is_number else sys.maxsize
        self._encoding = encoding.strip().lower()
        self.compressed = self._encoding in _ENCODINGS
        self._decompressor: Any = None
        self._members = 0
        self._inflate_budget = MAX_INFLATED

    @property
    def ended(self) -> bool:
        """Whether what follows is no part of it."""
        return not self._remaining

    def known_end(self, size: int) -> int | None:
        """Return where the JSON of a body of ``size`` bytes ends, if what comes before tells.

        None for a compressed one, and for more than is looked at in one go.
        """
        known = (
            self._remaining < size and self._remaining <= _MAX_WITHOUT_PAUSE and not self.compressed
        )
        return self._remaining if known else None

    def needs_no_inspection(self, pieces: Sequence[bytes | memoryview], size: int) -> bool:
        """Whether a body holds nothing that the gateway must know; most do not.

        False for more JSON in pieces than is looked at in one go.
        """
        needed = min(self._remaining, size)
        if self.compressed or (len(pieces) > 1 and needed > _MAX_WITHOUT_PAUSE):
            return False
        text = bytearray()
        for piece in pieces:  # often the head came alone, and the first one is empty
            text += piece[: needed - len(text)]
            if len(text) == needed:
                break
        return not (b"\\" in text or SEQUENCE.encode() in text or REGION.encode() in text)

    async def texts(self, piece: bytes) -> AsyncIterator[bytes]:
        """Yield what the next piece of the body has of the JSON.

        Raises ``BodyTooLarge`` for too much compressed JSON, and ``BadRequest`` for damaged data: a
        server may read something else from it.
        """
        if not self.compressed:
            yield self._truncate(piece)
            return
        for at in range(0, len(piece), _PIECE):
            part = piece[at : at + _PIECE]  # zlib copies what it leaves, each time
            while part and self._remaining:
                text, part = await self._inflate(part)
                yield self._truncate(text)

    def _truncate(self, text: bytes) -> bytes:
        text = text[: self._remaining]
        self._remaining -= len(text)
        return text

    async def _inflate(self, piece: bytes) -> tuple[bytes, bytes]:
        """Return inflated text and the rest of a piece. Raises ``BodyTooLarge``, ``BadRequest``."""
        if self._decompressor is None or self._decompressor.eof:  # gzip's members follow each other
            self._decompressor = zlib.decompressobj(self._window_bits(piece[0]))
            self._members += 1
        decompressor = self._decompressor
        try:
            text = await asyncio.to_thread(
                decompressor.decompress, piece, min(_PIECE, self._remaining)
            )
        except zlib.error:
            raise BadRequest("The body does not match its Content-Encoding") from None
        self._inflate_budget -= len(text)
        if self._inflate_budget < 0 or self._members > _MAX_MEMBERS:
            raise BodyTooLarge(
                f"Over {MAX_INFLATED} bytes of JSON are compressed: send it as it is"
            )
        return text, decompressor.unconsumed_tail or decompressor.unused_data

    def _window_bits(self, first: int) -> int:
        """Return what a body is by its first byte; no compressor begins raw data as zlib does."""
        headed = first & 15 == 8 or first == 0x1F
        return _EITHER if headed or self._encoding != "deflate" else _RAW


async def inspect_body(
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
        body.inspect = _StreamInspector(headers, regions=regions).inspect
    try:
        return await _inspect(body.known_pieces(), headers, share, regions=regions, passes=passes)
    finally:
        share.give_back()


async def _inspect(
    pieces: Sequence[bytes], headers: Headers, share: Share, *, regions: bool, passes: bool
) -> SequenceStep | None:
    part = JsonPart(headers)
    if len(pieces) == 1 and part.needs_no_inspection(pieces, len(pieces[0])):
        return None
    region, sequence = KeyFinder(REGION), KeyFinder(SEQUENCE)
    found, texts = False, []
    for piece in pieces:
        if part.ended:
            break
        async for text in part.texts(piece):
            if not regions and region.feed(text):
                raise region_refusal()
            found = sequence.feed(text) or found
            if part.compressed:
                share.take(len(text))
            texts.append(text)
        if len(pieces) > 1:
            await asyncio.sleep(0)  # let other tasks run
    if not found:
        return None
    if passes and not part.ended:
        raise _late_sequence_error()
    return step_of(b"".join(texts))


class _StreamInspector:
    """Inspects a streamed body; its first piece was searched for a sequence already."""

    def __init__(self, headers: Headers, *, regions: bool) -> None:
        self._part = JsonPart(headers)
        self._region = None if regions else KeyFinder(REGION)
        self._sequence = KeyFinder(SEQUENCE)
        self._begun = False

    async def inspect(self, piece: bytes) -> None:
        """Look at the next piece. Raises ``BadRequest`` and ``BodyTooLarge``."""
        async for text in self._part.texts(piece):
            if self._region is not None and self._region.feed(text):
                raise region_refusal()
            if text and self._sequence.feed(text) and self._begun:
                raise _late_sequence_error()
        self._begun = True


def step_of(text: bytes) -> SequenceStep | None:
    """Return what the JSON of an inference says of a sequence; None for one that is of none.

    The text has the name of its number. Raises ``BadRequest`` where it stands twice, or where
    nothing is read there: another reader, who takes the first of two, say, might find something.
    """
    if sum(bool(each[1]) for each in _key_pattern(SEQUENCE).finditer(text)) > 1:
        raise BadRequest(f"{SEQUENCE}: it is there twice")
    try:
        found = msgspec.json.decode(text, type=_Body).parameters
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest(f"{SEQUENCE}: the request that has it is not valid") from None
    if found is None or found.sequence_id is UNSET:
        raise BadRequest(f"{SEQUENCE}: it must be one of the request's own parameters")
    if found.sequence_id in {0, ""}:
        return None
    return SequenceStep(found.sequence_id, found.sequence_start, found.sequence_end)


def _late_sequence_error() -> BadRequest:
    """Return why a long request of a sequence is refused: it might go to another server."""
    return BadRequest(f"{SEQUENCE}: such a request must fit into buffer_mb, or have its JSON first")


def region_refusal() -> BadRequest:
    """Return why an inference with shared memory is refused."""
    return BadRequest(f"{REGION}: consumers of this application may not use shared memory")
