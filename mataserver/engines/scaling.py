"""Results on an image that was decoded smaller, in the pixels of the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from mataserver.results import DetectResult, PoseResult

if TYPE_CHECKING:
    from mataserver.media import Picture

TASKS = frozenset({"classify", "detect", "embed", "pose", "track"})
"""The tasks whose results hold no pixels of the size of the image."""


def restore(result: Any, picture: Picture) -> Any:
    """Return a sound result with its boxes and keypoints in original pixels."""
    if isinstance(result, DetectResult):
        return DetectResult([_moved(each, picture) for each in result.detections])
    if isinstance(result, PoseResult):
        scale = picture.scale
        return PoseResult(
            [
                msgspec.structs.replace(
                    _moved(each, picture),
                    keypoints=[(x * scale, y * scale, score) for x, y, score in each.keypoints],
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
