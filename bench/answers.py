"""What the models that do nothing answer, as plain data: ours and the peers' give the same."""

from __future__ import annotations

import io
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEIGHT, WIDTH = 480, 640
MASKS = 20
COUNTS = {"noop": 10, "many": 100, "detector": 10}
"""The models that answer detections, and how many. ``detector`` resizes its image before that."""

INPUT = (640, 640)
"""The size that ``detector`` resizes to, ``(height, width)``."""

Found = tuple[str, float, tuple[float, float, float, float]]


def detections(count: int) -> list[Found]:
    """Return ``count`` labels with a confidence in 0..1 and a box."""
    return [
        (f"thing {i}", round(0.5 + i / count / 2, 4), (5.0 * i, 5.5, 5.0 * i + 40, 99.25))
        for i in range(count)
    ]


@cache
def depth_map() -> NDArray[np.float32]:
    """Return a float32 map ``[480, 640]`` that does not compress."""
    return np.random.default_rng(2).random((HEIGHT, WIDTH), dtype=np.float32)


@cache
def masks() -> list[NDArray[np.bool_]]:
    """Return boolean discs ``[480, 640]``."""
    ys, xs = np.ogrid[:HEIGHT, :WIDTH]
    centres = [(60 + 18 * i, 60 + 27 * i) for i in range(MASKS)]
    return [(ys - y) ** 2 + (xs - x) ** 2 < 50**2 for y, x in centres]


def png(mask: NDArray[np.bool_]) -> bytes:
    """Encode a mask as the server does, an 8-bit PNG of 0 and 255, but with Pillow."""
    buffer = io.BytesIO()
    pixels = np.where(mask, np.uint8(255), np.uint8(0))
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image ``[H, W, 3]`` to ``(height, width)`` as the processors of transformers do."""
    picture = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(picture)
