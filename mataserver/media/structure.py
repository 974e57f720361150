"""Checks of a file's structure, before Pillow parses it."""

from __future__ import annotations

import struct
from itertools import islice
from typing import TYPE_CHECKING, Any

from mataserver.errors import BadRequest
from mataserver.media import jpeg

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_CHUNKS = 65_536
"""Maximum chunks of a PNG. Encoders write a few thousand for a 32 MB body."""
MAX_PROFILE = 65_536
MAX_DIRECTORIES = 64
"""Maximum places that look like TIFF directories. A picture has one; others are accidental."""
_PNG = b"\x89PNG\r\n\x1a\n"
_BESIDE = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})
_TIFF_STARTS = {b"II*\0": "<", b"MM\0*": ">"}
_BIG_TIFF_STARTS = {b"II+\0": "<", b"MM\0+": ">"}
_ONES, _TWOS, _FOURS = frozenset({1, 2, 6, 7}), frozenset({3, 8}), frozenset({4, 9, 11, 13})
_TILES = frozenset({322, 323})
_EXIF, _RAW_PROFILE = b"Exif\0\0", "Raw profile type exif"


def check(data: bytes | memoryview) -> None:
    """Raise ``BadRequest`` for a file that is small to send and expensive to open.

    These are JPEGs with huge numbers of segments, PNGs of chunks, and directories whose entries
    share their values, which are read once per entry: a few megabytes would expand to terabytes.
    """
    if data[:2] == jpeg.START:
        jpeg.check_segments(data)
    elif data[:8] == _PNG:
        if sum(1 for _ in _chunks(data)) > MAX_CHUNKS:
            raise BadRequest(f"image cannot be decoded: it has over {MAX_CHUNKS} chunks")
    elif not _all_fit(data) or _has_duplicate_tile_tags(memoryview(data)):
        raise BadRequest("image cannot be decoded: its metadata are damaged")


def _all_fit(data: bytes | memoryview) -> bool:
    """Whether all directories of a file are plausible, and few enough to be checked."""
    found = list(islice(_directories(data), MAX_DIRECTORIES + 1))
    return len(found) <= MAX_DIRECTORIES and all(map(fits, found))


def readable_exif(info: Mapping[Any, Any]) -> bool:
    """Whether Pillow's EXIF is safe to parse: its values fit into it without overlap."""
    if len(info.get(_RAW_PROFILE, "")) > MAX_PROFILE:
        return False
    exif = info.get("exif") or b""
    return fits(memoryview(exif)[len(_EXIF) if exif.startswith(_EXIF) else 0 :])


def without_metadata(data: bytes | memoryview) -> bytes | None:
    """Return a PNG without texts and colour profile; None if it has none.

    Pillow rejects a picture with a text that decompresses to over a megabyte.
    """
    if data[:8] != _PNG:
        return None
    chunks = list(_chunks(data))
    kept = [(begin, end) for kind, begin, end in chunks if kind not in _BESIDE]
    if len(kept) == len(chunks):
        return None
    return _PNG + b"".join(data[begin:end] for begin, end in kept)


def _chunks(data: bytes | memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of a PNG's chunks, up to one more than the maximum."""
    at = len(_PNG)
    for _ in range(MAX_CHUNKS + 1):
        if at + 8 > len(data):
            return
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield bytes(data[at + 4 : at + 8]), at, end
        at = end


def _directories(data: bytes | memoryview) -> Iterator[memoryview]:
    """Yield possible TIFF directories that Pillow parses on opening a file: TIFF's, AVIF's."""
    view = memoryview(data)
    if bytes(data[:4]) in _TIFF_STARTS or bytes(data[:4]) in _BIG_TIFF_STARTS:
        yield view
    if data[4:8] == b"ftyp":
        whole = bytes(data)
        for start in _TIFF_STARTS:
            at = whole.find(start)
            while at >= 0:
                yield view[at:]
                at = whole.find(start, at + 1)


def fits(data: memoryview) -> bool:
    """Whether the values of a TIFF's first directory together are no larger than the file.

    (TIFF 6.0, section 2; with the larger numbers of BigTIFF.)
    """
    return sum(_size(kind) * number for _, kind, number in _entries(data)) <= len(data)


def _has_duplicate_tile_tags(data: memoryview) -> bool:
    """Whether a TIFF repeats a tile size: Pillow uses the last value, libtiff the first."""
    tags = [tag for tag, _, _ in _entries(data) if tag in _TILES]
    return len(tags) > len(set(tags))


def _entries(data: memoryview) -> Iterator[tuple[int, int, int]]:
    """Yield tag, kind and number of values of the entries of a TIFF's first directory."""
    start = bytes(data[:4])
    big = start in _BIG_TIFF_STARTS
    order = _TIFF_STARTS.get(start) or _BIG_TIFF_STARTS.get(start)
    if order is None:
        return
    try:
        (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    except struct.error:
        return  # Pillow reads none either
    entry = struct.Struct(order + ("HHQ8x" if big else "HHI4x"))
    begin = at + (8 if big else 2)
    end = begin + min(count, (len(data) - begin) // entry.size) * entry.size
    yield from entry.iter_unpack(data[begin : max(begin, end)])


def _size(kind: int) -> int:
    """Return the size in bytes of a value of a type."""
    if kind in _ONES:
        return 1
    return 2 if kind in _TWOS else 4 if kind in _FOURS else 8
