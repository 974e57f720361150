"""A decoded picture, and how large one may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mataserver.errors import BadRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_SIDE = 65_535


class Picture(NamedTuple):
    """A decoded image, perhaps smaller than it was.

    ``width`` and ``height`` are those of the original, upright; a pixel ``(x, y)`` of ``image`` is
    the original's ``(x * scale, y * scale)``.
    """

    image: NDArray[np.uint8]
    scale: int
    width: int
    height: int


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise ``BadRequest`` for a picture of more than ``max_pixels`` or too long a side."""
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise BadRequest(
            f"image is too large: {width}x{height} pixels, at most {max_pixels} are allowed"
        )
