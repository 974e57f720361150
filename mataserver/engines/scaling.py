"""Maps results for a reduced image back to the original's pixels."""

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
"""The tasks that lose nothing by reduced decoding if the model resizes its input anyway.

Not depth: its map would have fewer pixels.
"""


def input_size(model: object, task: str) -> tuple[int, int] | None:
    """Return the size that a model resizes images to; None if the task needs full size.

    Its numbers may be NumPy's. Raises ``TypeError`` or ``ValueError`` for what is no size.
    """
    size = getattr(model, "input_size", None) if task in TASKS else None
    if size is None:
        return None
    height, width = size
    if any(isinstance(each, (str, bytes, bytearray)) for each in (size, height, width)):
        raise TypeError("digits are no size")  # int would read "64" as 6 and 4, b"64" as 54 and 52
    return int(height), int(width)


def restore(result: Any, picture: Picture) -> Any:
    """Return a valid result with boxes, corners, keypoints and masks in original pixels."""
    if isinstance(result, DetectResult):
        return DetectResult([_scale_detection(each, picture) for each in result.detections])
    if isinstance(result, SegmentResult):
        return SegmentResult(
            [_scale_mask(_scale_box(each, picture), picture) for each in result.segments]
        )
    if isinstance(result, PoseResult):
        return PoseResult(
            [
                msgspec.structs.replace(
                    _scale_box(each, picture),
                    keypoints=list(_scale_keypoints(each.keypoints, picture)),
                )
                for each in result.keypoints
            ]
        )
    return result


def _scale_box(thing: Any, picture: Picture) -> Any:
    scale, width, height = picture.scale, picture.width, picture.height
    x1, y1, x2, y2 = thing.bbox
    box = (
        min(x1 * scale, width),
        min(y1 * scale, height),
        min(x2 * scale, width),
        min(y2 * scale, height),
    )
    return msgspec.structs.replace(thing, bbox=box)


def _scale_detection(found: Detection, picture: Picture) -> Detection:
    """Scale a detection, and its optional corners, which may lie outside the image."""
    moved: Detection = _scale_box(found, picture)
    try:
        corners = msgspec.convert(found.extra.get("corners"), list[tuple[float, float]])
    except msgspec.ValidationError:  # no corners, or an unrelated field of that name
        return moved
    scale = picture.scale
    placed = [[x * scale, y * scale] for x, y in corners]
    return msgspec.structs.replace(moved, extra={**found.extra, "corners": placed})


def _scale_keypoints(
    points: Iterable[tuple[float, float, float]], picture: Picture
) -> Iterable[tuple[float, float, float]]:
    """Yield the keypoints scaled; points inside the reduced image stay inside the original."""
    height, width = picture.image.shape[:2]
    for x, y, score in points:
        yield (
            _scale_coordinate(x, picture.scale, width, picture.width),
            _scale_coordinate(y, picture.scale, height, picture.height),
            score,
        )


def _scale_coordinate(at: float, scale: int, side: int, whole: int) -> float:
    """Scale a coordinate; the last reduced pixel may cover less than ``scale`` pixels."""
    return min(at * scale, float(whole)) if at <= side else at * scale


def _scale_mask(segment: Segment, picture: Picture) -> Segment:
    if segment.mask is UNSET or segment.mask is None:
        return segment
    return msgspec.structs.replace(segment, mask=enlarge_mask(segment.mask, picture))


def enlarge_mask(mask: Any, picture: Picture) -> NDArray[np.bool_]:
    """Return a boolean mask ``[h, w]`` of a reduced image as one ``[H, W]`` of the original.

    The outline is smooth: it is where bilinear interpolation crosses 0.5.
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
