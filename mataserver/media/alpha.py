"""Pictures that one can see through, laid on a ground."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mataserver.config import Alpha

FLAT = 32
"""Levels of 256 that a picture must span, in some channel, for anything to be read in it."""
_GROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0)}
_OTHER: dict[Alpha, Alpha] = {"white": "black", "black": "white"}
_WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
_PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}
_PNG_DEPTH = 24  # the place of IHDR's bit depth in a file


def is_transparent(picture: Image.Image) -> bool:
    """Whether a picture has an alpha channel, or a colour that stands for nothing."""
    return picture.mode in _WITH_ALPHA or "transparency" in picture.info


def opaque(picture: Image.Image, alpha: Alpha, *, legible: bool) -> Image.Image:
    """Return an RGB picture of an 8-bit one with an alpha channel, ``RGBA`` or ``LA``.

    ``legible`` takes the other ground where the asked one leaves (almost) a single colour: white
    letters on nothing are to be read too.
    """
    colours, cover = picture.convert("RGB"), picture.getchannel("A")
    if alpha == "drop" or cover.getextrema() == (255, 255):
        return colours
    found = _over(colours, cover, alpha)
    if legible and _contrast(found) < FLAT:
        other = _over(colours, cover, _OTHER[alpha])
        found = max(found, other, key=_contrast)
    return found


def layered(picture: Image.Image, depth: int) -> Image.Image:
    """Return a transparent picture of at most 8 bits a sample as ``RGBA`` or ``LA``.

    ``depth`` is the bits of a sample in the file. A transparent colour is given in them, whereas
    the samples have been widened or narrowed to 8 bits.
    """
    if picture.mode in _PREMULTIPLIED:
        return picture.convert(_PREMULTIPLIED[picture.mode])
    if picture.mode in _WITH_ALPHA - {"PA"}:
        return picture
    clear = picture.info.get("transparency")
    if picture.mode in {"1", "L", "RGB"} and depth != 8:
        picture.info["transparency"] = (
            tuple(_widened(each, depth) for each in clear)
            if isinstance(clear, tuple)
            else _widened(int(clear or 0), depth)
        )
    return picture.convert("RGBA")


def layered_grey(samples: NDArray[Any], grey: NDArray[np.uint8], clear: int | None) -> Image.Image:
    """Return grey pixels as ``LA``: those whose 16-bit sample is ``clear`` are transparent."""
    cover = np.where(samples == clear, np.uint8(0), np.uint8(255))
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(cover)))


def depth_of(picture: Image.Image, data: bytes | memoryview) -> int:
    """Return the bits of a sample in the file where its transparent colour is given in them."""
    return int(data[_PNG_DEPTH]) if picture.format == "PNG" and len(data) > _PNG_DEPTH else 8


def _widened(sample: int, depth: int) -> int:
    """Return an 8-bit sample. Of one bit Pillow has made 0 or 255 itself, or not (below 12)."""
    if depth == 1:
        return 255 if sample else 0
    return sample >> (depth - 8) if depth > 8 else sample * 255 // ((1 << depth) - 1)


def _over(colours: Image.Image, cover: Image.Image, alpha: Alpha) -> Image.Image:
    ground = Image.new("RGB", colours.size, _GROUNDS[alpha])
    ground.paste(colours, mask=cover)
    return ground


def _contrast(picture: Image.Image) -> int:
    """Return how many levels the widest channel of an RGB picture spans."""
    return max(int(high) - int(low) for low, high in picture.getextrema())  # type: ignore[misc]
