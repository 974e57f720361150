"""Boxes: ``(cx, cy, w, h)`` in the API, ``(x1, y1, x2, y2)`` in networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    Four = tuple[float, float, float, float]


def corners(box: Sequence[float]) -> Four:
    """Convert ``(cx, cy, w, h)`` to ``(x1, y1, x2, y2)``."""
    cx, cy, width, height = box
    return (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)


def centred(box: Sequence[float]) -> Four:
    """Convert ``(x1, y1, x2, y2)`` to ``(cx, cy, w, h)``; no side is negative."""
    x1, y1, x2, y2 = box
    return ((x1 + x2) / 2, (y1 + y2) / 2, max(0.0, x2 - x1), max(0.0, y2 - y1))


def scaled(box: Sequence[float], width: float, height: float) -> Four:
    """Multiply a box, in either form, by a width and a height."""
    a, b, c, d = box
    return (a * width, b * height, c * width, d * height)
