"""Decoding of images to RGB arrays, within limits.

Every path returns the same: writable uint8 ``[H, W, 3]``, EXIF orientation applied, transparency
composed on a background, 16-bit samples scaled to 8, the first frame of an animation.
"""

from __future__ import annotations

import io
import struct
import time
from threading import get_ident
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from mataserver.errors import BadRequest
from mataserver.media import alpha as transparency
from mataserver.media import avif, bands, jpeg, kinds, netpbm, structure, tiff
from mataserver.media.jpeg import MARGINS
from mataserver.media.limits import Picture, check_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mataserver.config import Alpha

_ORIENTATION = 0x0112
_XMP = ("xmp", "XML:com.adobe.xmp", "Raw profile type xmp")
_JPEGS = frozenset({"JPEG", "MPO"})
_DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    IndexError,
    TypeError,
    ArithmeticError,  # a number of the metadata that is infinite
)
_NO_PICTURE = (
    UnidentifiedImageError,
    KeyError,  # an unknown compression of a TIFF's later page; `open` catches the first one's
    *_DAMAGED,
)
_MAX_SCALE = max(MARGINS)
_TRANSPOSED_ORIENTATIONS = frozenset({5, 6, 7, 8})
_TRANSPOSED = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[:, ::-1].transpose(1, 0, 2),
}
_since: dict[int, float] = {}


class Unreadable(BadRequest):
    """400: not a picture according to Pillow, or a damaged one."""


def decode(
    data: bytes | memoryview, max_pixels: int, alpha: Alpha = "white", *, legible: bool = False
) -> NDArray[np.uint8]:
    """Decode one image to RGB uint8 ``[H, W, 3]``.

    Transparent areas show the colour ``alpha``, or with "drop" the pixels' own colour. ``legible``
    uses the opposite colour if the first leaves nothing visible. The size is checked before any
    pixel is decoded. Raises ``BadRequest`` for bytes that are not an image, a damaged or
    unsupported one, or one of more than ``max_pixels``.
    """
    return reduced(data, max_pixels, None, alpha, legible=legible).image


def reduced(
    data: bytes | memoryview,
    max_pixels: int,
    wanted: tuple[int, int] | None,
    alpha: Alpha = "white",
    *,
    legible: bool = False,
) -> Picture:
    """Decode one image that will be resized to ``wanted``, ``(height, width)``.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, in the DCT domain and not by resampling, while
    both sides stay larger than wanted by the margin. Raises as ``decode`` does.
    """
    if not len(data):
        raise BadRequest("image is empty")
    _since[get_ident()] = time.monotonic()
    try:
        return _decoded(data, max_pixels, wanted, alpha, legible=legible)
    finally:
        _since.pop(get_ident(), None)


def decoding() -> dict[int, float]:
    """Return the threads that are decoding, with the ``time.monotonic()`` of their start."""
    return _since.copy()


def _decoded(
    data: bytes | memoryview,
    max_pixels: int,
    wanted: tuple[int, int] | None,
    alpha: Alpha,
    *,
    legible: bool,
) -> Picture:
    plain = jpeg.plain(data, max_pixels, wanted)
    if plain is not None:
        return plain
    array = netpbm.decode(data, max_pixels)
    if array is not None:
        return Picture(array, 1, array.shape[1], array.shape[0])
    netpbm.check(data)
    structure.check(data)
    avif.check(data, max_pixels)
    try:
        return _by_pillow(data, max_pixels, wanted, alpha, legible=legible)
    except Unreadable:
        bare = structure.without_metadata(data)
        if bare is None:
            raise
        return _by_pillow(bare, max_pixels, wanted, alpha, legible=legible)


def _by_pillow(
    data: bytes | memoryview,
    max_pixels: int,
    wanted: tuple[int, int] | None,
    alpha: Alpha,
    *,
    legible: bool,
) -> Picture:
    picture = _open(data, max_pixels)
    if wanted is not None and not _reducible(picture):
        wanted = None
    transposed = wanted is not None and _orientation(picture) in _TRANSPOSED_ORIENTATIONS
    try:
        found = _jpeg(picture, data, wanted[::-1] if wanted and transposed else wanted)
        if found is None:
            picture.load()
            found = Picture(_to_rgb(picture, data, alpha, legible=legible), 1, *picture.size)
    except (*_DAMAGED, RuntimeError, Image.DecompressionBombError):
        raise Unreadable("image cannot be decoded: it is truncated or damaged") from None
    return _upright(found, _orientation(picture))  # read now: loading applies some orientations


def _open(data: bytes | memoryview, max_pixels: int) -> Image.Image:
    """Read only a picture's header. Raises ``BadRequest``."""
    try:
        if kinds.is_heif(data) and kinds.reads_heif():
            picture = _open_heif(data)
        else:
            picture = Image.open(io.BytesIO(data), formats=kinds.FORMATS)
            if picture.format == "TIFF":
                picture = tiff.selected_page(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadRequest(f"image is too large: at most {max_pixels} pixels") from None
    except _NO_PICTURE:
        raise Unreadable(kinds.refusal(data)) from None
    check_size(*picture.size, max_pixels)
    if picture.format == "TIFF":
        tiff.check_tiles(picture, max_pixels)
        tiff.correct_palette(picture)
    return picture


def _open_heif(data: bytes | memoryview) -> Image.Image:
    """Read the header of a HEIC picture. libheif applies the orientation, and resets EXIF."""
    from pi_heif import register_heif_opener  # loads libheif, which few workers need

    if kinds.HEIF not in Image.OPEN:
        register_heif_opener(thumbnails=False)
    return Image.open(io.BytesIO(data), formats=(kinds.HEIF,))


def _reducible(picture: Image.Image) -> bool:
    """Whether a picture may be reduced: a mirrored one would start with a partial pixel.

    Reads the orientation of JPEGs only. Reading a PNG's makes Pillow load the picture; if that
    fails, a later load does nothing, and a partial picture passes for a complete one.
    """
    if picture.format not in _JPEGS:
        return False
    whole = not any(side % _MAX_SCALE for side in picture.size)
    return whole or _orientation(picture) == 1


def _upright(found: Picture, orientation: int) -> Picture:
    turn = _TRANSPOSED.get(orientation)
    if turn is None:
        return found
    array, scale, width, height = found
    sides = (height, width) if orientation in _TRANSPOSED_ORIENTATIONS else (width, height)
    return Picture(np.ascontiguousarray(turn(array)), scale, *sides)


def _jpeg(
    picture: Image.Image, data: bytes | memoryview, wanted: tuple[int, int] | None
) -> Picture | None:
    """Decode a JPEG with the fast decoder, if possible; else return None."""
    if picture.format not in _JPEGS:
        return None
    jpeg.check_scans(data, *picture.size)
    return jpeg.unusual(data, picture.size, wanted)


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation; 1 if the metadata cannot be read.

    Pillow would use XMP's where EXIF has none. Browsers and OpenCV do not: a box would be drawn
    elsewhere in the picture that they show.
    """
    if not structure.readable_exif(picture.info):
        return 1
    for key in _XMP:
        picture.info.pop(key, None)
    try:
        exif = picture.getexif()
        if "exif" in picture.info:  # it may have been read when the picture was opened, with XMP's
            exif = Image.Exif()
            exif.load(picture.info["exif"])
        return int(exif.get(_ORIENTATION, 1))
    except _DAMAGED:
        return 1


def _to_rgb(
    picture: Image.Image, data: bytes | memoryview, alpha: Alpha, *, legible: bool
) -> NDArray[np.uint8]:
    """Convert to RGB; samples over 8 bits are scaled, as ``convert`` would clip them."""
    picture = transparency.framed(picture)
    clear = transparency.is_transparent(picture)
    if picture.mode == "F":
        raise BadRequest("image has floating-point samples, which are not supported")
    if picture.format == "TIFF":
        tiff.check(picture)
    if picture.mode.startswith("I;16") or picture.mode == "I":
        samples: NDArray[Any] = np.asarray(picture)
        grey = bands.shades(picture, samples)
        if not clear:
            return grey[..., np.newaxis].repeat(3, axis=2)
        level = picture.info["transparency"]

        def shown(top: int, bottom: int) -> Image.Image:
            layers = transparency.layered_grey(samples[top:bottom], grey[top:bottom], level)
            return transparency.opaque(layers, alpha, legible=legible)

        height, width = grey.shape
        if legible:  # which colour the ground has is decided for the picture as a whole
            return bands.pixels(shown(0, height))
        return bands.assembled(width, height, shown)
    if clear:
        depth = transparency.depth_of(picture, data)
        if picture.mode == "RGB" and depth > 8:
            picture = transparency.keyed(picture, data)

        def composed(part: Image.Image) -> Image.Image:
            layers = transparency.layered(part, depth)
            return transparency.opaque(layers, alpha, legible=legible)

        return bands.pixels(composed(picture)) if legible else bands.pixels(picture, composed)
    return bands.pixels(picture)
