"""What plugins do with pixels, without numpy, Pillow or PyAV until they do it.

A service may import these where it stands in the server, which itself needs none of the three.
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
    """Decode an image as those of requests are: upright RGB uint8 ``[H, W, 3]``.

    What is transparent is laid on ``alpha``: "white", "black", or "drop" for what lies under it.

    For models whose methods a service calls with encoded bytes. Raises ``BadRequest`` for bytes
    that are no image, a broken one, or one of more than ``max_pixels``.
    """
    from mataserver.media import decode

    return decode(data, max_pixels, alpha)


def draw(
    pixels: NDArray[np.uint8], found: Result | InferResponse | Mapping[str, Any]
) -> NDArray[np.uint8]:
    """Return RGB pixels uint8 ``[H, W, 3]``, a copy, with what was found in them drawn in.

    ``found`` is a result of any task, an answer of the client, or the JSON of an answer: boxes,
    turned ones too, masks, keypoints, the numbers of tracks, classes, text, depth. Raises
    ``ValueError`` for what is none of these.
    """
    import numpy as np

    from mataserver.media import drawing

    return np.array(drawing.drawn(pixels.copy(), drawing.result_of(found)))


def upright_frame(frame: VideoFrame) -> NDArray[np.uint8]:
    """Return a video frame that PyAV decoded as cameras' are: upright RGB uint8 ``[H, W, 3]``.

    Its display matrix is obeyed, turned and mirrored. Raises what PyAV raises for pixels that
    cannot be converted.
    """
    from mataserver.media.orientation import upright

    return upright(frame)
