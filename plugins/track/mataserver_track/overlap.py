"""The overlap of boxes, of which weak ones need more.

It is a module of its own because its class needs the library's when it is defined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from trackers.utils.iou import IoU

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Boxes = NDArray[np.float64]

NO_MATCH = -1.0
"""Below every threshold, also one of 0."""


class StrictWhereWeak(IoU):
    """Intersection over union; in the second round of a frame only from ``least`` on.

    The library compares all tracks with the boxes of high confidence first, and those that are left
    with the weak ones afterwards. It has one threshold for both, its authors 0.5 for the second:
    with 0.1 a false box nearby leads a track astray whose object is hidden.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._rounds = 0

    def begin_frame(self) -> None:
        """Have the next comparison be the first of a frame."""
        self._rounds = 0

    def compute(self, boxes_1: Boxes, boxes_2: Boxes) -> Boxes:
        """Return the overlap ``[N, M]`` of tracks ``[N, 4]`` with boxes ``[M, 4]``."""
        self._rounds += 1
        found: Boxes = super().compute(boxes_1, boxes_2)
        return found if self._rounds == 1 else np.where(found < self._least, NO_MATCH, found)
