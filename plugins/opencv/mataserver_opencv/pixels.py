"""Boxes of OpenCV's detectors in the wire format: floats, clipped to the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mataserver import Box


def clipped(box: Box, height: int, width: int) -> Box | None:
    """Clip ``box`` (pixels) to an image of that size; None when it lies outside."""
    x1, x2 = (min(max(x, 0.0), float(width)) for x in (box[0], box[2]))
    y1, y2 = (min(max(y, 0.0), float(height)) for y in (box[1], box[3]))
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None
