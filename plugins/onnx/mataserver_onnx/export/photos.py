"""The pictures on which an export is compared with torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mataserver import BadRequest, decode_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

SAMPLE = Path(__file__).with_name("photo.jpg")
"""A picture that is part of this package."""

_SUFFIXES = frozenset({".avif", ".bmp", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_MAX_PICTURES, _MAX_PIXELS = 300, 178_956_970


def read(place: Path | None) -> list[Pixels]:
    """Return the pictures of a folder, or one picture, as RGB arrays ``[H, W, 3]``.

    None stands for three framings of ``SAMPLE``. Raises ``BadRequest`` when there are none, or one
    cannot be read.
    """
    if place is None:
        return framings(_picture(SAMPLE))
    files = [place]
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise BadRequest(f"{place} holds no pictures")
    return [_picture(file) for file in files[:_MAX_PICTURES]]


def framings(photo: Pixels) -> list[Pixels]:
    """Return the whole photo, a wide and a tall crop of it, because the aspect ratio matters."""
    height, width = photo.shape[:2]
    return [
        photo,
        np.ascontiguousarray(photo[: max(1, height * 5 // 8)]),
        np.ascontiguousarray(photo[:, : max(1, width // 2)]),
    ]


def _picture(file: Path) -> Pixels:
    """Return a picture as a request's is decoded: upright, transparency on white."""
    try:
        return decode_image(file.read_bytes(), _MAX_PIXELS)
    except (OSError, BadRequest) as error:
        raise BadRequest(f"{file} cannot be read as a picture") from error
