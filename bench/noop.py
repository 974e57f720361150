"""The plugin whose models do nothing: what is left of a request is the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import answers
from mataserver import Backend, DepthResult, Detection, DetectResult, Segment, SegmentResult
from mataserver import hookimpl as implementation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver import LoadContext, ModelSpec
    from mataserver.results import Result

TASKS = dict.fromkeys((*answers.COUNTS, "scaled"), "detect") | {
    "depth": "depth",
    "masks": "segment",
}


def answer(name: str) -> Result:
    """Return the constant answer of a model."""
    if name == "depth":
        return DepthResult(answers.depth_map())
    if name == "masks":
        found = zip(answers.detections(answers.MASKS), answers.masks(), strict=True)
        return SegmentResult([Segment(*each, mask) for each, mask in found])
    return DetectResult([Detection(*each) for each in answers.detections(answers.COUNTS[name])])


ANSWER = answer("noop")


class Noop:
    """Answers the same whatever it sees."""

    def __init__(self, name: str) -> None:
        self._answer = answer(name)

    def predict(self, images: Sequence[Any], params: Sequence[Any]) -> list[Result]:
        """Return the constant answer for each image."""
        del params
        return [self._answer] * len(images)


class Scaled(Noop):
    """Takes images as large as a detector needs, and does nothing."""

    input_size = answers.INPUT


class Detector(Scaled):
    """Resizes each image as a detector would, then does nothing."""

    def predict(self, images: Sequence[Any], params: Sequence[Any]) -> list[Result]:
        """Return the constant answer for each image."""
        for image in images:
            answers.resized(image, answers.INPUT)
        return super().predict(images, params)


def load(spec: ModelSpec, context: LoadContext) -> Noop:
    """Load nothing."""
    del context
    if spec.name == "scaled":
        return Scaled("noop")
    return Detector(spec.name) if spec.name == "detector" else Noop(spec.name)


@implementation
def backends() -> list[Backend]:
    """Return a backend for each model."""
    return [Backend(name=n, task=task, source="pip", load=load) for n, task in TASKS.items()]
