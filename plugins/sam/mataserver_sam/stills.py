"""The frames of a video as pictures to look at, decoded apart from those that are tracked.

A person looks anywhere while a propagation walks on: with one decoder each look would send it back
to a key frame.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from mataserver_sam.frames import Clip, reading

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from mataserver_sam.index import Limits

LONGEST_SIDE = 1_280
"""Pixels; larger frames are shown smaller."""

_CACHE_BYTES = 4e6
"""About 20 pictures: stepping back decodes no group of pictures anew for each step."""
_QUALITY = 90


class Stills:
    """JPEGs of the frames of one file by number; its decoder begins with the first look.

    The file may be deleted once this is made. Raises ``BadRequest`` when it cannot be opened.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        with reading("The video cannot be read"):
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._place = Path(f"/proc/self/fd/{file}")
        self._release = weakref.finalize(self, os.close, file)
        self._limits = limits
        self._clip: Clip[NDArray[np.uint8]] | None = None

    def jpeg(self, number: int) -> bytes:
        """Return frame ``number``, from 0, upright, with at most ``LONGEST_SIDE`` pixels a side.

        Raises ``BadRequest`` when it cannot be decoded.
        """
        if self._clip is None:
            self._clip = self.clip(_encoded, _CACHE_BYTES)
        return self._clip.frame(number).tobytes()

    def clip(
        self, prepare: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], cache_bytes: float
    ) -> Clip[NDArray[np.uint8]]:
        """Open the file once more, for whoever closes it."""
        return Clip(self._place, prepare, cache_bytes, self._limits)

    @property
    def cached_bytes(self) -> int:
        """Bytes of the pictures that are kept."""
        return 0 if self._clip is None else self._clip.cached_bytes

    def close(self) -> None:
        """Close the file, and end the decoder if there is one."""
        if self._clip is not None:
            self._clip.close()
        self._clip = None
        self._release()


def fitted(image: NDArray[np.uint8], longest: int) -> Any:
    """Return an RGB image ``[H, W, 3]`` as it is, or with ``longest`` pixels on its longer side."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _encoded(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    bgr = cv2.cvtColor(fitted(image, LONGEST_SIDE), cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    made: NDArray[np.uint8] = jpeg
    return made
