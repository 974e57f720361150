"""A decoded picture, and its size limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mataserver.errors import BadRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_SIDE = 65_535


class Picture(NamedTuple):
    """A decoded image, possibly at reduced size.

    ``width`` and ``height`` are the original's, upright; a pixel ``(x, y)`` of ``image`` is at
    ``(x * scale, y * scale)`` in the original.
    """

    image: NDArray[np.uint8]
    scale: int
    width: int
    height: int


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise ``BadRequest`` for a picture of over ``max_pixels``, or with too long a side."""
    if max(width, height) > MAX_SIDE:
        raise BadRequest(
            f"image is too large: {width}x{height} pixels, a side has at most {MAX_SIDE}"
        )
    if width * height > max_pixels:
        raise BadRequest(
            f"image is too large: {width}x{height} pixels, at most {max_pixels} are allowed"
        )
