"""Encoded bytes to RGB arrays, within limits.

Every path gives the same kind of array: writable uint8 ``[H, W, 3]``, EXIF orientation applied,
alpha dropped, 16-bit samples scaled to 8, the first frame of an animation.
"""

from __future__ import annotations

import io
import re
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError
from zlib_ng import zlib_ng

from mataserver.errors import BadRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_SIDE = 65_535
MARGINS = {8: 1.3, 4: 1.15, 2: 1.15}
"""How much larger than wanted an image stays that is decoded at 1/8, 1/4 or 1/2 of its size.

There the model's input differs from that of the whole picture, by Pillow's bilinear filter, about
as much as the bicubic filter's does (docs/performance.md).
"""
_ORIENTATION = 0x0112
_JPEG_START = b"\xff\xd8"
_APP1, _START_OF_SCAN = 0xE1, 0xDA
_PLAIN = frozenset({"YCbCr", "RGB", "Gray"})
_PPM_HEAD, _PPM_WITHIN = re.compile(rb"P6\n([1-9]\d{0,5}) ([1-9]\d{0,5})\n255\n"), 32
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError, TypeError)
_LARGEST_SCALE = max(MARGINS)
_PNG_START, _GREY = b"\x89PNG\r\n\x1a\n", 0
_LYING = frozenset({5, 6, 7, 8})
_TRANSPOSED = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[:, ::-1].transpose(1, 0, 2),
}


class Picture(NamedTuple):
    """A decoded image, perhaps smaller than it was.

    ``width`` and ``height`` are those of the original, upright; a pixel ``(x, y)`` of ``image`` is
    the original's ``(x * scale, y * scale)``.
    """

    image: NDArray[np.uint8]
    scale: int
    width: int
    height: int


def decode(data: bytes | memoryview, max_pixels: int) -> NDArray[np.uint8]:
    """Decode one image to RGB uint8 ``[H, W, 3]``.

    The header's size is checked before any pixel is decoded. Raises ``BadRequest`` for bytes that
    are no image, a broken or unsupported one, or one of more than ``max_pixels``.
    """
    return reduced(data, max_pixels, None).image


def reduced(data: bytes | memoryview, max_pixels: int, wanted: tuple[int, int] | None) -> Picture:
    """Decode one image for somebody who will resize it to ``wanted``, ``(height, width)``.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, by fewer coefficients and not by resampling,
    as long as it stays larger than wanted by its margin both ways. Raises as ``decode`` does.
    """
    if not len(data):
        raise BadRequest("image is empty")
    plain = _plain_jpeg(data, max_pixels, wanted)
    if plain is not None:
        return plain
    array = _plain_ppm(data, max_pixels)
    if array is not None:
        return Picture(array, 1, array.shape[1], array.shape[0])
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadRequest(f"image is too large: at most {max_pixels} pixels") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, struct.error, TypeError):
        raise BadRequest("image cannot be decoded: unknown format or broken header") from None
    _check_size(*picture.size, max_pixels)
    turned = wanted is not None and _orientation(picture) != 1
    if wanted and turned and any(side % _LARGEST_SCALE for side in picture.size):
        wanted = None  # a mirrored image would begin with the part of a pixel that it ends with
    lying = turned and _orientation(picture) in _LYING
    try:
        found = _pixels(picture, data, wanted[::-1] if wanted and lying else wanted)
    except (*_DAMAGED, Image.DecompressionBombError):
        raise BadRequest("image cannot be decoded: it is truncated or damaged") from None
    orientation = _orientation(picture)  # asked again: some formats are turned as they are loaded
    turn = _TRANSPOSED.get(orientation)
    if turn is None:
        return found
    array, scale, width, height = found
    sides = (height, width) if orientation in _LYING else (width, height)
    return Picture(np.ascontiguousarray(turn(array)), scale, *sides)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise BadRequest(
            f"image is too large: {width}x{height} pixels, at most {max_pixels} are allowed"
        )


def _scale(width: int, height: int, wanted: tuple[int, int] | None) -> int:
    """Return by how much a JPEG may be reduced for somebody who wants that size."""
    if wanted is None:
        return 1
    most = min(height / wanted[0], width / wanted[1])
    return next((scale for scale, margin in MARGINS.items() if scale * margin <= most), 1)


def _decode_jpeg(
    data: bytes | memoryview, width: int, height: int, wanted: tuple[int, int] | None
) -> Picture | None:
    """Decode a JPEG whose header was checked, or return None for one that is unusual."""
    scale = _scale(width, height, wanted)
    least = {"min_height": -(-height // scale), "min_width": -(-width // scale)}
    try:
        array: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, colorspace="RGB", **({} if scale == 1 else least)
        )
    except ValueError:
        return None
    return Picture(array, scale, width, height)


def _plain_jpeg(
    data: bytes | memoryview, max_pixels: int, wanted: tuple[int, int] | None
) -> Picture | None:
    """Decode a JPEG without EXIF, the common case of cameras and streams, or return None.

    It skips Pillow's parsing, a seventh of the whole. Anything unusual goes the long way.
    """
    if data[:2] != _JPEG_START or not _without_metadata(data):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colours not in _PLAIN:
        return None
    _check_size(width, height, max_pixels)
    return _decode_jpeg(data, width, height, wanted)


def _plain_ppm(data: bytes | memoryview, max_pixels: int) -> NDArray[np.uint8] | None:
    """Take the pixels of a PPM as the server itself writes them, or return None.

    Pillow takes a hundred times as long as a copy does. Anything unusual goes the long way.
    """
    head = _PPM_HEAD.match(bytes(data[:_PPM_WITHIN]))
    if head is None:
        return None
    width, height = int(head[1]), int(head[2])
    if len(data) - head.end() != width * height * 3:
        return None
    _check_size(width, height, max_pixels)
    pixels = np.frombuffer(data, np.uint8, offset=head.end())
    return pixels.reshape(height, width, 3).copy()


def _without_metadata(data: bytes | memoryview) -> bool:
    """Whether the segments before a JPEG's pixels are sound and none of them can hold EXIF."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind == _START_OF_SCAN:
            return True
        if kind in {_APP1, 0xFF}:
            return False
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return False


def _pixels(
    picture: Image.Image, data: bytes | memoryview, wanted: tuple[int, int] | None
) -> Picture:
    found = _jpeg(data, picture.size, wanted) if picture.format == "JPEG" else None
    if found is None:
        picture.load()
        found = Picture(np.array(_to_rgb(picture), dtype=np.uint8), 1, *picture.size)
    return found


def _jpeg(
    data: bytes | memoryview, size: tuple[int, int], wanted: tuple[int, int] | None
) -> Picture | None:
    """Decode a plain JPEG, or return None for one that takes Pillow's patience.

    simplejpeg is faster but refuses what cameras get away with (stray bytes between markers), and
    has no CMYK. A header that the two read differently is not trusted with memory.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if (width, height) != size or colours not in _PLAIN:
        return None
    return _decode_jpeg(data, *size, wanted)


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation; metadata that cannot be read turn nothing."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except _DAMAGED:
        return 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Convert to RGB; samples of more than 8 bits are scaled, which ``convert`` would clip."""
    if picture.mode.startswith("I;16") or picture.mode == "I":
        samples: NDArray[Any] = np.asarray(picture).astype(np.float64)
        return Image.fromarray((samples.clip(0, 65_535) / 257.0).round().astype(np.uint8)).convert(
            "RGB"
        )
    if picture.mode == "F":
        raise BadRequest("image has floating-point samples, which are not supported")
    if picture.mode in {"P", "PA"} and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def grey(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a boolean mask as an array of 0 and 255, whatever bytes stand for what is true."""
    inside: NDArray[np.bool_] = np.asarray(mask, dtype=bool).view(np.uint8) != 0
    return np.negative(inside.view(np.uint8))


def encode_png(mask: NDArray[Any]) -> bytes:
    """Encode a boolean mask ``[H, W]`` as an 8-bit grey PNG of 0 and 255 (W3C, PNG, 3rd edition).

    Its rows are not filtered and its runs are coded as such: for a mask that is smaller than what
    an encoder of photographs makes of it, and takes a tenth of the time. Raises ``ValueError`` for
    what has no pixels or another shape.
    """
    pixels = grey(mask)
    height, width = pixels.shape
    if not pixels.size:
        raise ValueError(f"a mask of {width}x{height} pixels")
    rows = np.zeros((height, width + 1), np.uint8)  # a row begins with its filter: 0 is none
    rows[:, 1:] = pixels
    runs = zlib_ng.compressobj(1, zlib_ng.DEFLATED, strategy=zlib_ng.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, _GREY, 0, 0, 0)
    packed = runs.compress(rows) + runs.flush()
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return _PNG_START + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib_ng.crc32(data, zlib_ng.crc32(kind))
    return b"".join((len(data).to_bytes(4, "big"), kind, data, check.to_bytes(4, "big")))
