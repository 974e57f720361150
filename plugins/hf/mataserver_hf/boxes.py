"""Boxes in pixels of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver import Detection, DetectResult

if TYPE_CHECKING:
    from collections.abc import Sequence


def corners(boxes: Any, size: tuple[float, ...]) -> Any:
    """Turn centres, widths and heights in 0..1 of ``size`` into corners in pixels."""
    height, width = size
    middle, half = boxes[:, :2], boxes[:, 2:] / 2
    relative = boxes.new_tensor([width, height]).repeat(2)
    return (middle.repeat(1, 2) + (half.repeat(1, 2) * half.new_tensor([-1, -1, 1, 1]))) * relative


def result(labels: Sequence[str], scores: Any, boxes: Any, size: tuple[int, ...]) -> DetectResult:
    """Clip boxes to the image, and drop those outside it, such as in a border that was added."""
    height, width = size
    inside = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
    found = [
        Detection(label, score, (x1, y1, x2, y2))
        for label, score, (x1, y1, x2, y2) in zip(
            labels, scores.tolist(), inside.tolist(), strict=True
        )
        if x2 > x1 and y2 > y1
    ]
    return DetectResult(sorted(found, key=lambda each: -each.confidence))
