"""Pixel functions for plugins, which import numpy, Pillow and PyAV only when called.

A service can import this module into the server, which itself needs none of the three.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import numpy as np
    from av.video.frame import VideoFrame
    from numpy.typing import NDArray

    from mataserver.config import Alpha
    from mataserver.results import Result
    from mataserver_client import InferResponse


def decode_image(data: bytes, max_pixels: int, alpha: Alpha = "white") -> NDArray[np.uint8]:
    """Decode an image as in requests: upright RGB uint8 ``[H, W, 3]``.

    Transparent areas show ``alpha``: "white", "black", or "drop" for the pixels' own colour.

    For models whose methods are called by a service with encoded bytes. Raises ``BadRequest`` for
    bytes that are not an image, a damaged one, or one of more than ``max_pixels``.
    """
    from mataserver.media import decode

    return decode(data, max_pixels, alpha)


def draw(
    pixels: NDArray[np.uint8], found: Result | InferResponse | Mapping[str, Any]
) -> NDArray[np.uint8]:
    """Return a copy of RGB pixels uint8 ``[H, W, 3]`` with a result drawn in.

    ``found`` is a result of any task, a client's answer, or an answer's JSON: boxes, also rotated,
    masks, keypoints, track numbers, classes, text, depth. Raises ``ValueError`` for anything else.
    """
    import numpy as np

    from mataserver.media import drawing

    return np.array(drawing.drawn(pixels.copy(), drawing.result_of(found)))


def upright_frame(frame: VideoFrame) -> NDArray[np.uint8]:
    """Return a decoded PyAV video frame as cameras' are: upright RGB uint8 ``[H, W, 3]``.

    Applies its display matrix: rotation and mirroring. Raises what PyAV raises for pixels that
    cannot be converted.
    """
    from mataserver.media.orientation import upright

    return upright(frame)
