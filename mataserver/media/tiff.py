"""Interpretation of a TIFF's samples, which Pillow returns unconverted.

TIFF 6.0: BitsPerSample, PhotometricInterpretation and SampleFormat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImagePalette, TiffImagePlugin

from mataserver.errors import BadRequest
from mataserver.media import structure

if TYPE_CHECKING:
    from io import BytesIO

    from numpy.typing import NDArray

# Pillow's own reader of uncompressed TIFFs takes separate planes of 16 bits for planes of 8.
TiffImagePlugin.READ_LIBTIFF = True

_BITS, _PHOTOMETRIC, _PLANES, _PALETTE, _EXTRA, _FORMAT = 258, 262, 284, 320, 338, 339
_COMPRESSION, _STRIP_SIZES, _SUBSAMPLING = 259, 279, 530
_MIN_IS_WHITE, _SEPARATE, _SIGNED, _YCBCR = 0, 2, 2, 6
_MISREAD_PLANES = frozenset({"LA", "LAB", "La", "PA"})
"""Modes that Pillow gets wrong where each channel is stored by itself."""
_TILE_WIDTH, _TILE_HEIGHT = 322, 323
_SUBFILES, _REDUCED = 330, 1
_MAX_BITS = 16
_DAMAGED = "image cannot be decoded: its metadata are damaged"
_PADDED = 2
"""How much larger than a picture may be its tiles are at most: those at its edges are filled up."""


def selected_page(picture: Image.Image) -> Image.Image:
    """Return the first page that is not a reduced copy of another, as a thumbnail in front is.

    Raises ``BadRequest`` for a raw photograph (DNG and its like), whose only page is one.
    """
    for page in range(structure.MAX_PAGES):
        try:
            picture.seek(page)
        except EOFError:
            break
        if not _tag(picture, structure.SUBFILE_TYPE, 0) & _REDUCED:
            return _as_first(picture) if page else picture
    picture.seek(0)
    if _SUBFILES in picture.tag_v2:  # type: ignore[attr-defined] # a TiffImageFile
        raise BadRequest(
            "image is a TIFF that shows only a reduced copy of its picture, as a raw photograph "
            "does: convert it"
        )
    return picture


def _as_first(picture: Image.Image) -> Image.Image:
    """Return the current page as the first one of its file.

    Pillow reports that libtiff cannot read the first page. Another one it leaves black.
    """
    file: BytesIO = picture.fp  # type: ignore[attr-defined] # a TiffImageFile
    with file.getbuffer() as data:
        layout = structure.layout_of(data)
        assert layout is not None  # noqa: S101 - for the type checker: Pillow opened it
        at = picture.tag_v2.offset  # type: ignore[attr-defined] # a TiffImageFile
        layout.offset.pack_into(data, layout.start, at)
    file.seek(0)
    return Image.open(file, formats=("TIFF",))


def check(picture: Image.Image) -> None:
    """Raise ``BadRequest`` for samples without defined black and white, and misread planes.

    32-bit and signed samples are measurements, not shades.
    """
    if _tag(picture, _FORMAT, 1) == _SIGNED or _tag(picture, _BITS, 1) > _MAX_BITS:
        raise BadRequest("image has samples of 32 bits or with a sign, which are not supported")
    tags = picture.tag_v2  # type: ignore[attr-defined] # a TiffImageFile
    unnamed = picture.mode == "RGBA" and _EXTRA not in tags
    misread = unnamed or picture.mode in _MISREAD_PLANES
    if misread and _tag(picture, _PLANES, 1) == _SEPARATE:
        raise BadRequest(
            "image is a TIFF of separate planes with alpha or in L*a*b*, which is not supported: "
            "save it with PlanarConfiguration 1"
        )
    if _lacks_subsampling(picture):
        raise BadRequest(
            "image is a TIFF in YCbCr that does not tell how its colours are subsampled (tag 530)"
        )


def _lacks_subsampling(picture: Image.Image) -> bool:
    """Whether uncompressed YCbCr is more than it is by default, and the tag is missing.

    The default has a pair of colours for four pixels (TIFF 6.0, section 21): read so, a picture
    with one for each would come out as noise.
    """
    tags = picture.tag_v2  # type: ignore[attr-defined] # a TiffImageFile
    plain = _tag(picture, _COMPRESSION, 1) == 1 and _tag(picture, _PHOTOMETRIC, 1) == _YCBCR
    sizes = tags.get(_STRIP_SIZES)
    if not plain or _SUBSAMPLING in tags or not isinstance(sizes, tuple):
        return False
    width, height = picture.size
    return sum(each for each in sizes if isinstance(each, int)) >= 2 * width * height


def correct_palette(picture: Image.Image) -> None:
    """Read a palette of 8-bit colours as such, before the pixels are loaded.

    It should have 16 bits, of which Pillow keeps the upper 8: the picture would be black. As in
    libtiff, a palette without any larger number has 8.
    """
    colours = picture.tag_v2.get(_PALETTE)  # type: ignore[attr-defined] # a TiffImageFile
    if picture.mode not in {"P", "PA"} or not isinstance(colours, tuple):
        return
    if all(isinstance(each, int) and 0 <= each <= 255 for each in colours):
        picture.palette = ImagePalette.raw("RGB;L", bytes(colours))


def check_tiles(picture: Image.Image, max_pixels: int) -> None:
    """Raise ``BadRequest`` for tiles that are together far larger than the picture may be.

    Each is decoded as a whole, however little of it lies within the picture.
    """
    width, height = (max(1, _tag(picture, tag, 1)) for tag in (_TILE_WIDTH, _TILE_HEIGHT))
    across, down = (
        -(-side // of) * of for side, of in zip(picture.size, (width, height), strict=True)
    )
    if across * down > _PADDED * max_pixels:
        raise BadRequest(
            f"image is too large: its tiles of {width}x{height} pixels hold {across}x{down}"
        )


def grey(picture: Image.Image, samples: NDArray[Any]) -> NDArray[Any]:
    """Scale grey samples of 12 or 16 bits to 0 (black) to 65,535 (white)."""
    most = (1 << _tag(picture, _BITS, _MAX_BITS)) - 1
    shades = samples if most == 65_535 else samples.astype(np.uint32) * 65_535 // most
    return 65_535 - shades if _tag(picture, _PHOTOMETRIC, 1) == _MIN_IS_WHITE else shades


def _tag(picture: Image.Image, tag: int, otherwise: int) -> int:
    """Return a tag's value for the first sample. Raises ``BadRequest`` for one that is no integer.

    A file may call it a float, and then it may be infinite.
    """
    value = picture.tag_v2.get(tag, otherwise)  # type: ignore[attr-defined] # a TiffImageFile
    first = next(iter(value), None) if isinstance(value, tuple) else value
    if not isinstance(first, int):
        raise BadRequest(_DAMAGED)
    return first
