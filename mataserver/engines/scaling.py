"""Results on an image that was decoded smaller, in the pixels of the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import UNSET
from PIL import Image

from mataserver.media import grey
from mataserver.results import DetectResult, PoseResult, SegmentResult

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from mataserver.media import Picture
    from mataserver.results import Detection, Segment

TASKS = frozenset({"classify", "detect", "embed", "pose", "segment", "track"})
"""The tasks whose results lose nothing when the model resizes its images anyway.

A depth map would be one of fewer pixels.
"""


def input_size(model: object, task: str) -> tuple[int, int] | None:
    """Return the size that a model resizes images to, None where smaller ones would do it harm."""
    size: tuple[int, int] | None = getattr(model, "input_size", None)
    return size if task in TASKS else None


def restore(result: Any, picture: Picture) -> Any:
    """Return a sound result with its boxes, corners, keypoints and masks in original pixels."""
    if isinstance(result, DetectResult):
        return DetectResult([_detection(each, picture) for each in result.detections])
    if isinstance(result, SegmentResult):
        return SegmentResult(
            [_enlarged(_moved(each, picture), picture) for each in result.segments]
        )
    if isinstance(result, PoseResult):
        return PoseResult(
            [
                msgspec.structs.replace(
                    _moved(each, picture), keypoints=list(_joints(each.keypoints, picture))
                )
                for each in result.keypoints
            ]
        )
    return result


def _moved(thing: Any, picture: Picture) -> Any:
    scale, width, height = picture.scale, picture.width, picture.height
    x1, y1, x2, y2 = thing.bbox
    box = (
        min(x1 * scale, width),
        min(y1 * scale, height),
        min(x2 * scale, width),
        min(y2 * scale, height),
    )
    return msgspec.structs.replace(thing, bbox=box)


def _detection(found: Detection, picture: Picture) -> Detection:
    """Move a detection, and the corners that it may have: they may lie beside the image."""
    moved: Detection = _moved(found, picture)
    try:
        corners = msgspec.convert(found.extra.get("corners"), list[tuple[float, float]])
    except msgspec.ValidationError:  # none, or something else that a model calls so
        return moved
    scale = picture.scale
    placed = [[x * scale, y * scale] for x, y in corners]
    return msgspec.structs.replace(moved, extra={**found.extra, "corners": placed})


def _joints(
    points: Iterable[tuple[float, float, float]], picture: Picture
) -> Iterable[tuple[float, float, float]]:
    """Yield the keypoints moved; what lay within the reduced image lies within the original."""
    height, width = picture.image.shape[:2]
    for x, y, score in points:
        yield (
            _place(x, picture.scale, width, picture.width),
            _place(y, picture.scale, height, picture.height),
            score,
        )


def _place(at: float, scale: int, side: int, whole: int) -> float:
    """Return a place along a side; the last pixel of a reduced one is but a part of one."""
    return min(at * scale, float(whole)) if at <= side else at * scale


def _enlarged(segment: Segment, picture: Picture) -> Segment:
    if segment.mask is UNSET or segment.mask is None:
        return segment
    return msgspec.structs.replace(segment, mask=enlarged(segment.mask, picture))


def enlarged(mask: Any, picture: Picture) -> NDArray[np.bool_]:
    """Return a boolean mask ``[h, w]`` of a reduced image as one ``[H, W]`` of the original.

    Its outline is smooth: it runs where bilinear interpolation passes a half.
    """
    small = np.asarray(mask, dtype=bool)
    whole = np.zeros((picture.height, picture.width), bool)
    rows, columns = (np.flatnonzero(small.any(axis)) for axis in (1, 0))
    if not rows.size:
        return whole
    top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)
    part = small[top : rows[-1] + 2, left : columns[-1] + 2]
    size = (part.shape[1] * picture.scale, part.shape[0] * picture.scale)
    large = Image.fromarray(grey(part)).resize(size, Image.Resampling.BILINEAR)
    place = whole[top * picture.scale :, left * picture.scale :][: size[1], : size[0]]
    np.greater(np.asarray(large)[: place.shape[0], : place.shape[1]], 127, out=place)
    return whole
