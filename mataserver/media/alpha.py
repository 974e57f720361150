"""Composition of transparent pictures on a background."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mataserver.config import Alpha

FLAT = 32
"""Minimum range of levels, of 256, in some channel for a picture to count as legible."""
_GROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0)}
_OTHER: dict[Alpha, Alpha] = {"white": "black", "black": "white"}
_WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
_PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}
_PNG_DEPTH = 24  # offset of IHDR's bit depth


def is_transparent(picture: Image.Image) -> bool:
    """Whether a picture has an alpha channel, or a transparent colour."""
    return picture.mode in _WITH_ALPHA or "transparency" in picture.info


def opaque(picture: Image.Image, alpha: Alpha, *, legible: bool) -> Image.Image:
    """Return the RGB composition of an 8-bit picture with alpha, ``RGBA`` or ``LA``.

    ``legible`` uses the opposite background if the requested one leaves (almost) a single colour,
    as for white letters on a transparent ground.
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
    """Return a transparent picture of at most 8 bits per sample as ``RGBA`` or ``LA``.

    ``depth`` is the file's bits per sample. A transparent colour is in that range, whereas Pillow
    has scaled the samples to 8 bits.
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
    """Return the bits per sample in which the file gives its transparent colour."""
    return int(data[_PNG_DEPTH]) if picture.format == "PNG" and len(data) > _PNG_DEPTH else 8


def _widened(sample: int, depth: int) -> int:
    """Scale a sample to 8 bits. Of one bit, Pillow (below 12) may or may not have scaled it."""
    if depth == 1:
        return 255 if sample else 0
    return sample >> (depth - 8) if depth > 8 else sample * 255 // ((1 << depth) - 1)


def _over(colours: Image.Image, cover: Image.Image, alpha: Alpha) -> Image.Image:
    ground = Image.new("RGB", colours.size, _GROUNDS[alpha])
    ground.paste(colours, mask=cover)
    return ground


def _contrast(picture: Image.Image) -> int:
    """Return the number of levels that the widest channel of an RGB picture spans."""
    return max(int(high) - int(low) for low, high in picture.getextrema())  # type: ignore[misc]
