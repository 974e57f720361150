"""Pictures to be decoded, as files store them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from conftest import picture

LIMIT = 1_000_000
ORIENTATION = 0x0112
# What EXIF's orientation n means: the upright picture, stored like this.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def encoded(image: Image.Image, form: str, **options) -> bytes:
    """Return an image's bytes in a format."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def upright() -> np.ndarray:
    """Return a grey picture of 64x48 with a red box at (10, 8, 30, 28)."""
    return np.array(Image.open(io.BytesIO(picture())))


def turned(orientation: int, form: str) -> bytes:
    """Return the upright picture stored turned, with the EXIF tag that says how."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright())))
    options = {"lossless": True} if form == "WEBP" else {}
    return encoded(stored, form, exif=exif.tobytes(), **options)
