"""Finds the size of the frames within an AVIF.

An AVIF tells its size twice: in its container, where readers look first, and in the AV1 frames. The
library decodes a frame of any size and scales it to the container's: 3 KB that claim 64x64 pixels
would take a gigabyte (ISO/IEC 14496-12; MIAF).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver.errors import BadRequest
from mataserver.media import av1
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
_PLACES = ((b"stco", 4), (b"co64", 8))
_MOVIE = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def check(data: bytes | memoryview, max_pixels: int) -> None:
    """Raise ``BadRequest`` if an AVIF has a frame of over ``max_pixels``; ignore other files."""
    if data[4:8] != b"ftyp" or not _is_avif(data):
        return
    left, is_whole = MAX_PARTS, True
    for payload in _payloads(memoryview(data)):
        kinds = set()
        for kind, width, height in _frames(payload):
            check_size(width, height, max_pixels)
            kinds.add(kind)
            left -= 1
            if not left:
                raise _too_many()
        is_whole = is_whole and _SEQUENCE in kinds
    # The library may read another place than was looked at here: nobody writes such files.
    if not is_whole:
        raise BadRequest("image cannot be decoded: a frame's size was not found")


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
        yield from _first_frame(table, data)
    if len(tables) > MAX_TRACKS:
        raise _too_many()


def _first_frame(table: memoryview, data: memoryview) -> Iterator[bytes]:
    """Yield the first frame of a track, if it is one of AV1 that has any."""
    if not any(b"av01" in bytes(each) for each in _boxes(table, b"stsd")):
        return
    sizes, runs = list(_boxes(table, b"stsz")), list(_boxes(table, b"stsc"))
    places = [(chunks, wide) for kind, wide in _PLACES for chunks in _boxes(table, kind)]
    # The library takes one number from the first box and another from the second.
    if max(len(sizes), len(runs), len(places)) > 1:
        raise BadRequest("image cannot be decoded: a track has two tables of its frames")
    for chunks, wide in places:
        head = sizes[0] if sizes else memoryview(b"")
        size = int.from_bytes(head[4:8], "big") or int.from_bytes(head[12:16], "big")
        begin = int.from_bytes(chunks[8 : 8 + wide], "big")
        yield bytes(data[begin : begin + size])


def _coded_items(info: memoryview) -> Iterator[int]:
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
        if number in coded:
            yield b"".join(pieces)
        if not reader:
            return


# the frames


def _frames(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each unit's kind, and the largest size of its frames; 1x1 if it tells none."""
    sequence: av1.Sequence | None = None
    for kind, body in _units(data):
        if kind == _SEQUENCE:
            sequence = av1.sequence_of(body)
            yield kind, sequence.width, sequence.height
        elif kind in _WITH_FRAME and sequence is not None and av1.has_own_size(body, sequence):
            yield kind, 1 << sequence.bits[0], 1 << sequence.bits[1]
        else:
            yield kind, 1, 1


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
