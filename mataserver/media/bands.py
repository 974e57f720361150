"""Conversion of large pictures in bands of rows, so that none is held several times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mataserver.media import tiff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from PIL import Image

BAND_PIXELS = 1 << 20
"""Pixels that are converted at a time."""


def pixels(
    picture: Image.Image, to_rgb: Callable[[Image.Image], Image.Image] | None = None
) -> NDArray[np.uint8]:
    """Return a picture of any 8-bit mode as RGB ``[H, W, 3]``, converted by ``to_rgb`` if given."""
    width, height = picture.size

    def band(top: int, bottom: int) -> Image.Image:
        part = picture if bottom - top == height else picture.crop((0, top, width, bottom))
        if to_rgb is not None:
            return to_rgb(part)
        return part if part.mode == "RGB" else part.convert("RGB")

    return assembled(width, height, band)


def assembled(
    width: int, height: int, band: Callable[[int, int], Image.Image]
) -> NDArray[np.uint8]:
    """Return the RGB pixels ``[H, W, 3]`` of the bands that ``band(top, bottom)`` returns."""
    found = np.empty((height, width, 3), np.uint8)
    for top, bottom in _bands(width, height):
        found[top:bottom] = np.asarray(band(top, bottom))
    return found


def shades(picture: Image.Image, samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a grey picture's samples ``[H, W]`` of 16 bits (of a TIFF also 12) scaled to 8."""
    height, width = samples.shape
    found = np.empty((height, width), np.uint8)
    for top, bottom in _bands(width, height):
        band = samples[top:bottom]
        if picture.format == "TIFF":
            band = tiff.grey(picture, band)
        found[top:bottom] = (band.clip(0, 65_535) / 257.0).round()
    return found


def _bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)
