"""The displayable content of a result: boxes with labels, and lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET

from mataserver.results import (
    ClassifyResult,
    DetectResult,
    OcrResult,
    PoseResult,
    SegmentResult,
    VlmResult,
)

if TYPE_CHECKING:
    from mataserver.results import Box, Detection, Keypoint, Result, Segment

    Point = tuple[float, float]
MAX_TEXT = 2_000


class Annotation(NamedTuple):
    """A box, its label, the name that determines its colour, and its corners if rotated."""

    box: Box
    text: str
    kind: str
    corners: list[Point] | None = None


def boxes_of(result: Result) -> list[Annotation]:
    """Return the boxes of any task's result."""
    if isinstance(result, (DetectResult, VlmResult)):
        found = result.detections if result.detections is not UNSET else []
        return [Annotation(each.bbox, _named(each), each.label, _corners(each)) for each in found]
    if isinstance(result, SegmentResult):
        return [Annotation(each.bbox, _named(each), each.label) for each in result.segments]
    if isinstance(result, PoseResult):
        return [Annotation(each.bbox, _named(each), each.label) for each in result.keypoints]
    if isinstance(result, OcrResult):
        return [
            Annotation(r.bbox, r.text[:40], "text") for r in result.regions if r.bbox is not None
        ]
    return []


def _corners(found: Detection) -> list[Point] | None:
    """Return the four corners of a rotated box, None if there are none."""
    try:
        corners = msgspec.convert(found.extra.get("corners"), list[tuple[float, float]])
    except msgspec.ValidationError:
        return None
    return corners if len(corners) == 4 and np.isfinite(corners).all() else None


def _named(found: Detection | Segment | Keypoint) -> str:
    track = getattr(found, "track_id", UNSET)
    number = "" if track is UNSET else f"#{track} "
    return f"{number}{found.label[:40]} {found.confidence:.2f}"


def lines_of(result: Result) -> list[str]:
    """Return the text for the picture's corner: classes with probabilities, or the text."""
    if isinstance(result, ClassifyResult):
        return [f"{each.label[:60]} {each.confidence:.2f}" for each in result.classifications]
    if isinstance(result, VlmResult) or (isinstance(result, OcrResult) and not boxes_of(result)):
        return result.text[:MAX_TEXT].splitlines()
    return []
