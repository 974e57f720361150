"""JPEG with the fast decoder, full or reduced size, and checks of a JPEG's markers."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

import simplejpeg

from mataserver.errors import BadRequest
from mataserver.media.limits import Picture, check_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MARGINS = {8: 1.3, 4: 1.15, 2: 1.15}
"""For a reduction by 8, 4 or 2: the minimum ratio of the decoded size to the wanted size.

At that ratio the model's input, resized by Pillow's bilinear filter, differs from a full decode's
by about as much as the bicubic filter's does (docs/performance.md).
"""
MAX_SCANS = 100
FREE_SCANS, MOST_SCANNED = 16, 400_000_000
"""Number of scans that any JPEG may have; beyond that, the maximum of scans times pixels.

Every scan of a progressive JPEG processes the whole picture, about 5 ns per pixel, however few
bytes it has. Encoders write 10 of them, hardly ever more than a dozen.
"""
MAX_SEGMENTS = 4_096
"""Maximum segments before the pixels, and in total. 500 of the largest fill a 32 MB body."""
START = b"\xff\xd8"
_START_OF_SCAN, _END = 0xDA, 0xD9
_UNUSUAL = frozenset({0xE1, 0xFF})
"""APP1, which may contain EXIF, and a fill byte."""
_MARKER = struct.Struct(">BBH")
"""0xFF, a segment's type, and its length including these two bytes."""
_SEGMENT = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
"""The next marker with a length, or the end.

Within pixel data 0xFF is followed by 0 or a restart marker; stray bytes between segments are
skipped, as by libjpeg (ITU T.81, B.1).
"""
_BASELINE, _FRAMES = frozenset({0xC0, 0xC1}), frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_INCOMPLETE = "premature end of data segment"
"""What libjpeg says where a marker comes before the last pixels, unlike of stray bytes there."""
_PLAIN = frozenset({"YCbCr", "RGB", "Gray"})


class Head(NamedTuple):
    """Summary of the segments before a JPEG's pixels.

    ``plain``: they are valid, and none can contain EXIF. ``single``: one scan has all components.
    """

    plain: bool
    single: bool


def plain(
    data: bytes | memoryview, max_pixels: int, wanted: tuple[int, int] | None
) -> Picture | None:
    """Decode a JPEG without EXIF, the common case of cameras and streams, or return None.

    Skips Pillow's parsing, a seventh of the total time. Anything unusual takes the general path.
    Raises ``BadRequest`` for a JPEG that is too large or too slow to decode.
    """
    if data[:2] != START:
        return None
    head = read_head(data)
    if not head.plain:
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colours not in _PLAIN:
        return None
    check_size(width, height, max_pixels)
    if not head.single:
        check_scans(data, width, height)
    return _decoded(data, width, height, wanted)


def unusual(
    data: bytes | memoryview, size: tuple[int, int], wanted: tuple[int, int] | None
) -> Picture | None:
    """Decode a JPEG that Pillow has parsed, or return None for one that only Pillow can decode.

    simplejpeg is faster, but rejects defects that cameras produce (stray bytes between markers),
    and does not convert CMYK. If the two disagree on the header, it is not trusted. Raises
    ``BadRequest`` for a JPEG without all of its pixels.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if (width, height) != size:
        return None
    if colours not in _PLAIN:
        _check_complete(data)
        return None
    return _decoded(data, *size, wanted)


def _check_complete(data: bytes | memoryview) -> None:
    """Raise ``BadRequest`` for a CMYK picture without all of its pixels."""
    try:
        simplejpeg.decode_jpeg(data, colorspace="CMYK", min_height=1, min_width=1)
    except ValueError as error:
        _refuse_incomplete(error)


def _refuse_incomplete(error: ValueError) -> None:
    """Raise ``BadRequest`` if pixels are missing, which Pillow would pad with grey."""
    if _INCOMPLETE in str(error):
        raise BadRequest("image cannot be decoded: it is truncated or damaged") from None


def read_head(data: bytes | memoryview) -> Head:
    """Parse the segments before the pixels. Raises ``BadRequest`` if there are too many."""
    at, components, baseline, last = 2, 0, False, len(data) - 4
    for _ in range(MAX_SEGMENTS):
        if at > last:
            return Head(plain=False, single=False)
        mark, kind, length = _MARKER.unpack_from(data, at)
        if mark != 0xFF or kind in _UNUSUAL:
            return Head(plain=False, single=False)
        if kind == _START_OF_SCAN:
            alone = at < last and data[at + 4] == components
            return Head(plain=True, single=baseline and alone)
        if kind in _FRAMES and at + 9 < len(data):
            baseline, components = kind in _BASELINE, data[at + 9]
        at += 2 + length
    raise _too_many_segments()


def check_segments(data: bytes | memoryview) -> None:
    """Raise ``BadRequest`` for a JPEG with too many segments before its pixels."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] == _START_OF_SCAN:
            return
        filled = data[at + 1] == 0xFF
        at += 1 if filled else 2 + (data[at + 2] << 8 | data[at + 3])
    raise _too_many_segments()


def check_scans(data: bytes | memoryview, width: int, height: int) -> None:
    """Raise ``BadRequest`` for a JPEG whose scans would take too long to decode."""
    scans = _scans(bytes(data))
    scanned = scans * width * height
    if scans > MAX_SCANS or (scans > FREE_SCANS and scanned > MOST_SCANNED):
        raise BadRequest(
            f"image takes too long to decode: a JPEG of {scans} scans; save it with fewer"
        )


def _scans(data: bytes) -> int:
    """Return the number of scans of a JPEG. Raises as ``check_segments`` does.

    Data after the end marker, such as a phone's video or further pictures, does not count.
    """
    at, found = len(START), 0
    for _ in range(MAX_SEGMENTS):
        marker = _SEGMENT.search(data, at)
        if marker is None or data[marker.start(1)] == _END:
            return found
        found += data[marker.start(1)] == _START_OF_SCAN
        length = data[marker.end() : marker.end() + 2]
        at = marker.end() + max(2, int.from_bytes(length, "big"))
    raise _too_many_segments()


def _too_many_segments() -> BadRequest:
    return BadRequest(f"image cannot be decoded: it has over {MAX_SEGMENTS} segments")


def _scale(width: int, height: int, wanted: tuple[int, int] | None) -> int:
    """Return the factor by which a JPEG may be reduced for a target size."""
    if wanted is None:
        return 1
    most = min(height / wanted[0], width / wanted[1])
    return next((scale for scale, margin in MARGINS.items() if scale * margin <= most), 1)


def _decoded(
    data: bytes | memoryview, width: int, height: int, wanted: tuple[int, int] | None
) -> Picture | None:
    """Decode a JPEG with a checked header, or return None if it is unusual.

    Raises ``BadRequest`` for one without all of its pixels.
    """
    scale = _scale(width, height, wanted)
    least = {"min_height": -(-height // scale), "min_width": -(-width // scale)}
    try:
        array: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, colorspace="RGB", **({} if scale == 1 else least)
        )
    except ValueError as error:
        _refuse_incomplete(error)
        return None
    return Picture(array, scale, width, height)
