"""The frames of a video as pictures, with a decoder separate from that of the tracking.

A person may view any frame during a propagation: with one decoder each view would send it back to a
key frame.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from mataserver_sam.frames import Clip, video_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_sam.limits import Limits

MAX_SIDE = 1_280
"""Pixels; larger frames are scaled down."""

_CACHE_BYTES = 4e6
"""About 20 pictures, so that stepping back does not decode a group of pictures for each step."""
_QUALITY = 90


class Stills:
    """JPEGs of the frames of one file by number; the decoder is opened on first use.

    The file may be deleted after construction. Raises ``BadRequest`` when it cannot be opened.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        with video_errors("The video cannot be read"):
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._place = Path(f"/proc/self/fd/{file}")
        self._release = weakref.finalize(self, os.close, file)
        self._limits = limits
        self._clip: Clip[NDArray[np.uint8]] | None = None

    def jpeg(self, number: int) -> bytes:
        """Return frame ``number``, from 0, upright, with at most ``MAX_SIDE`` pixels a side.

        Raises ``BadRequest`` when it cannot be decoded.
        """
        if self._clip is None:
            self._clip = self.clip(_jpeg, _CACHE_BYTES)
        return self._clip.frame(number).tobytes()

    def clip(
        self, prepare: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], cache_bytes: float
    ) -> Clip[NDArray[np.uint8]]:
        """Open the file once more; the caller closes the clip."""
        return Clip(self._place, prepare, cache_bytes, self._limits)

    @property
    def cached_bytes(self) -> int:
        """Bytes of the cached pictures."""
        return 0 if self._clip is None else self._clip.cached_bytes

    def close(self) -> None:
        """Close the file, and end the decoder if there is one."""
        if self._clip is not None:
            self._clip.close()
        self._clip = None
        self._release()


def fitted(image: NDArray[np.uint8], longest: int) -> Any:
    """Return an RGB image ``[H, W, 3]``, scaled down to ``longest`` pixels on its longer side.

    Smaller images are returned unchanged.
    """
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _jpeg(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    bgr = cv2.cvtColor(fitted(image, MAX_SIDE), cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    made: NDArray[np.uint8] = jpeg
    return made
