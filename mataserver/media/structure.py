"""Checks of a file's structure, before Pillow parses it."""

from __future__ import annotations

import struct
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from mataserver.errors import BadRequest
from mataserver.media import jpeg

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_CHUNKS = 65_536
"""Maximum chunks of a PNG. Encoders write a few thousand for a 32 MB body."""
MAX_PROFILE = 65_536
MAX_DIRECTORIES = 64
"""Maximum places that look like TIFF directories. A picture has one; others are accidental."""
MAX_PAGES = 16
"""Maximum pages of a TIFF among which the picture is sought."""
_MAX_ENTRIES = 4096
"""Maximum entries of a directory that libtiff reads."""
_PNG = b"\x89PNG\r\n\x1a\n"
_BESIDE = frozenset({b"tEXt", b"zTXt", b"iTXt", b"iCCP"})
_TIFF_STARTS = {b"II*\0": "<", b"MM\0*": ">"}
_FALSE_TIFF_STARTS = (b"II\0*", b"MM*\0", b"MM\0+")
"""Pillow takes them for TIFFs, libtiff does not, or finds another first directory (BigTIFF)."""
_BIG_TIFF_STARTS = {b"II+\0": "<"}
_ONES, _TWOS, _FOURS = frozenset({1, 2, 6, 7}), frozenset({3, 8}), frozenset({4, 9, 11, 13})
SUBFILE_TYPE = 254
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
    elif data[:4] in _FALSE_TIFF_STARTS or not _all_fit(data) or not _are_sound(memoryview(data)):
        raise BadRequest("image cannot be decoded: its metadata are damaged")


def _all_fit(data: bytes | memoryview) -> bool:
    """Whether all directories within an AVIF are plausible, and few enough to be checked."""
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
    """Yield possible TIFF directories that Pillow parses on opening an AVIF."""
    view = memoryview(data)
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
    layout = layout_of(data)
    if layout is None:
        return True
    first = _directory(data, layout, _number(layout.offset, data, layout.start))
    return sum(each.size for each in first) <= len(data)


class _Entry(NamedTuple):
    """An entry of a directory: its tag, the size of its values, and these or where they are."""

    tag: int
    size: int
    value: bytes


class Layout(NamedTuple):
    """How a TIFF writes its numbers, and where it tells the place of its first directory."""

    offset: struct.Struct
    length: struct.Struct
    entry: struct.Struct
    start: int


def _are_sound(data: memoryview) -> bool:
    """Whether a TIFF's directories fit into the file, and repeat no tile size.

    Of a tile size that is repeated Pillow uses the last value, libtiff the first.
    """
    for entries in _pages(data):
        tiles = [each.tag for each in entries if each.tag in _TILES]
        size = sum(each.size for each in entries)
        if len(entries) > _MAX_ENTRIES or len(tiles) > len(set(tiles)) or size > len(data):
            return False
    return True


def _pages(data: memoryview) -> Iterator[list[_Entry]]:
    """Yield the directories of a TIFF up to that of its picture, which are all that is read.

    A page that may be a reduced copy is passed over, so the next one may be read too.
    """
    layout = layout_of(data)
    if layout is None:
        return
    at = _number(layout.offset, data, layout.start)
    seen: set[int] = set()
    while at and at not in seen and len(seen) < MAX_PAGES:  # Pillow ends at a loop as well
        seen.add(at)
        entries = list(islice(_directory(data, layout, at), _MAX_ENTRIES + 1))
        yield entries
        if not any(map(_may_mark_reduced, entries)):
            return
        behind = at + layout.length.size + _number(layout.length, data, at) * layout.entry.size
        at = _number(layout.offset, data, behind)


def _may_mark_reduced(entry: _Entry) -> bool:
    """Whether Pillow may read the lowest bit of NewSubfileType as 1, of whatever type it is."""
    elsewhere = entry.size > len(entry.value)
    return entry.tag == SUBFILE_TYPE and (elsewhere or any(byte & 1 for byte in entry.value))


def layout_of(data: memoryview) -> Layout | None:
    """Return how a TIFF is written; None for another file."""
    start = bytes(data[:4])
    big = start in _BIG_TIFF_STARTS
    order = _TIFF_STARTS.get(start) or _BIG_TIFF_STARTS.get(start)
    if order is None:
        return None
    forms = ("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s")
    offset, length, entry = (struct.Struct(order + form) for form in forms)
    return Layout(offset, length, entry, 8 if big else 4)


def _number(form: struct.Struct, data: memoryview, at: int) -> int:
    """Return a number of a file; 0 where it is beyond the end, and Pillow reads none either."""
    if at + form.size > len(data):
        return 0
    return int(form.unpack_from(data, at)[0])


def _directory(data: memoryview, layout: Layout, at: int) -> Iterator[_Entry]:
    """Yield the entries of a directory that are within the file."""
    begin = at + layout.length.size
    room = (len(data) - begin) // layout.entry.size
    end = begin + max(0, min(_number(layout.length, data, at), room)) * layout.entry.size
    if begin < end:
        for tag, kind, number, value in layout.entry.iter_unpack(data[begin:end]):
            yield _Entry(tag, _size(kind) * number, value)


def _size(kind: int) -> int:
    if kind in _ONES:
        return 1
    return 2 if kind in _TWOS else 4 if kind in _FOURS else 8
