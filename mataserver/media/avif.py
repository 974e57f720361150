"""Finds the size of the frames within an AVIF.

An AVIF tells its size twice: in its container, where readers look first, and in the AV1 frames. The
library decodes a frame of any size and scales it to the container's: 3 KB that claim 64x64 pixels
would take a gigabyte (AV1 bitstream, sections 5.5 and 5.9; ISO/IEC 14496-12; MIAF).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mataserver.errors import BadRequest
from mataserver.media.limits import check_size

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PARTS = 65_536
"""Maximum items with extents, boxes, and units (OBUs) of a file: looking at more takes long."""
MAX_TRACKS = 16
"""Maximum tracks. An animation has one, and one more for its transparency."""
_BRANDS = frozenset({b"avif", b"avis"})
_HEAD = 512
"""Bytes of a unit that hold all that is looked for."""
_SEQUENCE, _WITH_FRAME = 1, frozenset({3, 6, 7})
_KEY, _SWITCH, _SELECT = 0, 3, 2
_MOVIE = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


class Sequence(NamedTuple):
    """What a sequence header says about its frames.

    ``bits`` of the sides are those of a frame that has a size of its own; ``time``, ``tools``,
    ``vectors`` and ``number`` are what stands before that in a frame's header.
    """

    width: int
    height: int
    bits: tuple[int, int]
    reduced: bool
    time: int = 0
    tools: int = _SELECT
    vectors: int = _SELECT
    number: int = 0


def check(data: bytes | memoryview, max_pixels: int) -> None:
    """Raise ``BadRequest`` if an AVIF has a frame of over ``max_pixels``; ignore other files."""
    if data[4:8] != b"ftyp" or not _is_avif(data):
        return
    left = MAX_PARTS
    for payload in _payloads(memoryview(data)):
        for width, height in _frames(payload):
            check_size(width, height, max_pixels)
            left -= 1
            if not left:
                raise _too_many()


def _too_many() -> BadRequest:
    return BadRequest("image cannot be decoded: it has too many parts")


def _is_avif(data: bytes | memoryview) -> bool:
    end = min(int.from_bytes(data[:4], "big"), len(data))
    return any(bytes(data[at : at + 4]) in _BRANDS for at in (8, *range(16, end, 4)))


# the container


class _Reader:
    """Reads numbers; 0 beyond the end."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def number(self, size: int) -> int:
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "big")

    def __bool__(self) -> bool:
        return self.at < len(self.data)


def _boxes(data: memoryview, kind: bytes) -> Iterator[memoryview]:
    """Yield the contents of the boxes of a kind. Raises ``BadRequest`` if there are too many."""
    at = 0
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            return
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = at + size if size else len(data)
        if end < at + head:
            return
        if data[at + 4 : at + 8] == kind:
            yield data[at + head : end]
        at = end
    raise _too_many()


def _payloads(data: memoryview) -> Iterator[bytes]:
    """Yield the coded pictures, and the first of each track, which is the only one shown."""
    for meta in _boxes(data, b"meta"):
        inside = meta[4:]
        coded = {number for info in _boxes(inside, b"iinf") for number in _coded_items(info)}
        own = next(_boxes(inside, b"idat"), memoryview(b""))
        for places in _boxes(inside, b"iloc"):
            yield from _located(places, coded, (data, own))
    tables = [data]
    for kind in _MOVIE:
        tables = [each for table in tables for each in _boxes(table, kind)]
    for table in tables[:MAX_TRACKS]:
        sizes = next(_boxes(table, b"stsz"), memoryview(b""))
        size = int.from_bytes(sizes[4:8], "big") or int.from_bytes(sizes[12:16], "big")
        for kind, width in ((b"stco", 4), (b"co64", 8)):
            for chunks in _boxes(table, kind):
                begin = int.from_bytes(chunks[8 : 8 + width], "big")
                yield bytes(data[begin : begin + size])
    if len(tables) > MAX_TRACKS:
        raise _too_many()


def _coded_items(info: memoryview) -> Iterator[int]:
    """Yield the numbers of the AV1 items."""
    for entry in _boxes(info[8 if bytes(info[:1]) == b"\1" else 6 :], b"infe"):
        wide = 4 if bytes(entry[:1]) == b"\3" else 2
        if bytes(entry[6 + wide : 10 + wide]) == b"av01":
            yield int.from_bytes(entry[4 : 4 + wide], "big")


def _located(
    places: memoryview, coded: set[int], sources: tuple[memoryview, memoryview]
) -> Iterator[bytes]:
    """Yield the bytes of the items, which are in the file or, if short, in a box."""
    reader = _Reader(places)
    version = reader.number(4) >> 24
    sizes = reader.number(2)
    offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version > 1 else 2
    left, room = MAX_PARTS, 2 * len(sources[0])
    for _ in range(reader.number(wide)):
        number = reader.number(wide)
        source = sources[min(reader.number(2) & 15, 1) if version else 0]
        reader.at += 2
        start, pieces, extents = reader.number(base), [], reader.number(2)
        left -= 1 + extents
        for _ in range(extents if left >= 0 else 0):
            reader.at += index if version else 0
            begin, size = start + reader.number(offset), reader.number(length)
            piece = source[begin : begin + size] if size else source[begin:]
            if number in coded and room >= 0:
                room -= len(piece)
                pieces.append(piece)
        if left < 0 or room < 0:
            raise _too_many()
        yield b"".join(pieces)
        if not reader:
            return


# the frames


class _Bits:
    """Reads bits; zeros beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = len(data) * 8

    def take(self, count: int) -> int:
        self._left -= count
        shifted = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return shifted & ((1 << count) - 1)


def _frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield, for each unit, the largest size that its frames may have; 1x1 if it tells none."""
    sequence: Sequence | None = None
    for kind, body in _units(data):
        if kind == _SEQUENCE:
            sequence = sequence_of(body)
            yield sequence.width, sequence.height
        elif kind in _WITH_FRAME and sequence is not None and _has_own_size(body, sequence):
            yield 1 << sequence.bits[0], 1 << sequence.bits[1]
        else:
            yield 1, 1


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and beginning of a payload's units (OBUs)."""
    at = 0
    while at < len(data):
        head = data[at]
        at += 2 if head & 4 else 1
        size = 0
        if head & 2:
            for shift in range(0, 56, 7):
                part = data[at] if at < len(data) else 0
                at += 1
                size |= (part & 0x7F) << shift
                if not part & 0x80:
                    break
        else:
            size = len(data) - at
        yield head >> 3 & 15, data[at : at + min(size, _HEAD)]
        at += size


def sequence_of(data: bytes) -> Sequence:
    """Parse a sequence header."""
    bits = _Bits(data)
    bits.take(4)
    reduced = bool(bits.take(1))
    time = _skip_points(bits, reduced=reduced)
    wide, high = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(wide) + 1, bits.take(high) + 1
    if reduced:
        return Sequence(width, height, (wide, high), reduced=True)
    number = 0
    if bits.take(1):
        difference = bits.take(4) + 2
        number = bits.take(3) + difference + 1
    bits.take(3 + 4)
    ordered = bits.take(1)
    bits.take(2 if ordered else 0)
    tools = _SELECT if bits.take(1) else bits.take(1)
    vectors = _SELECT
    if tools and not bits.take(1):
        vectors = bits.take(1)
    return Sequence(
        width,
        height,
        (wide, high),
        reduced=False,
        time=time,
        tools=tools,
        vectors=vectors,
        number=number,
    )


def _skip_points(bits: _Bits, *, reduced: bool) -> int:
    """Skip times and operating points; return the bits of a frame's time."""
    if reduced:
        bits.take(5)
        return 0
    delay = time = 0
    if bits.take(1):
        bits.take(64)
        equal = bits.take(1)
        if equal:
            zeros = 0
            while zeros < 32 and not bits.take(1):
                zeros += 1
            bits.take(zeros)
        if bits.take(1):
            delay = bits.take(5) + 1
            bits.take(32 + 5)
            time = bits.take(5) + 1
            time = 0 if equal else time
    shown = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        bits.take(1 if bits.take(5) > 7 else 0)
        if delay and bits.take(1):
            bits.take(2 * delay + 1)
        if shown and bits.take(1):
            bits.take(4)
    return time


def _has_own_size(data: bytes, sequence: Sequence) -> bool:
    """Whether a frame may have another size than the sequence's."""
    bits = _Bits(data)
    if sequence.reduced or bits.take(1):
        return False
    kind, shown = bits.take(2), bits.take(1)
    bits.take(sequence.time if shown else 1)
    if kind != _SWITCH and not (kind == _KEY and shown):
        bits.take(1)
    bits.take(1)
    tools = bits.take(1) if sequence.tools == _SELECT else sequence.tools
    if tools and sequence.vectors == _SELECT:
        bits.take(1)
    bits.take(sequence.number)
    return kind == _SWITCH or bool(bits.take(1))
