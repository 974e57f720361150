"""What a model takes and gives, by its task: names, datatypes and shapes of tensors.

The first dimension of everything is N, the number of images of a request. The second of what is
found in images is the largest number of things found in one of them: rows of images with fewer are
filled up, and ``count`` tells how many are real.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Field:
    """One tensor of a model; -1 in its shape is a dimension that varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]


IMAGE = Field("image", "BYTES", (-1,))
PARAMS = Field("params", "BYTES", (-1,))
INPUTS = (IMAGE, PARAMS)
PIXELS = ((-1, -1, 3), (-1, -1, -1, 3))
"""The shapes in which ``image`` may come as UINT8: RGB pixels of one image, or of several."""

RESULT = Field("result", "BYTES", (-1,))

_COUNT = Field("count", "INT32", (-1,))
_BOXES = Field("boxes", "FP32", (-1, -1, 4))
_SCORES = Field("scores", "FP32", (-1, -1))
_LABELS = Field("labels", "BYTES", (-1, -1))
_TEXT = Field("text", "BYTES", (-1,))
_FOUND = (_COUNT, _BOXES, _SCORES, _LABELS)

_OUTPUTS: dict[str, tuple[Field, ...]] = {
    "classify": (_COUNT, _SCORES, _LABELS),
    "depth": (Field("depth", "FP32", (-1, -1, -1)),),
    "detect": _FOUND,
    "embed": (Field("embedding", "FP32", (-1, -1)),),
    "ocr": (_TEXT, _COUNT, _BOXES, _SCORES, Field("texts", "BYTES", (-1, -1))),
    "pose": (*_FOUND, Field("keypoints", "FP32", (-1, -1, -1, 3))),
    "segment": (*_FOUND, Field("masks", "BOOL", (-1, -1, -1, -1))),
    "track": (*_FOUND, Field("track_ids", "INT64", (-1, -1))),
    "vlm": (_TEXT,),
}


def outputs(task: str) -> tuple[Field, ...]:
    """Return what models of a task give; ``result``, the answer as JSON, is always the last."""
    return (*_OUTPUTS.get(task, ()), RESULT)
