"""A plugin whose models know the drawn scene: their answers are planted, not inferred.

They show the *format* of a task's answer where the repository has no trained weights. ``colours``
is the exception: it computes its vectors from the pixels, as simply as that can be done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import scene

from mataserver import (
    Backend,
    Classification,
    ClassifyResult,
    DepthResult,
    Detection,
    EmbedResult,
    Keypoint,
    Params,
    PoseResult,
    Segment,
    SegmentResult,
    VlmResult,
    hookimpl,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec

CELLS = 2
CONFIDENCES = {"person": 0.97, "ball": 0.91, "parcel": 0.88}


class Question(Params, frozen=True):
    """``prompt``: the things whose names it holds are told."""

    prompt: str = ""


class Planted:
    """A model that answers each image by one function of the image and the parameters."""

    def __init__(self, answer: Callable[[NDArray[np.uint8], Question], Any]) -> None:
        self._answer = answer

    def predict(self, images: Sequence[NDArray[np.uint8]], params: Sequence[Question]) -> list[Any]:
        """Return one answer an image."""
        return [self._answer(*each) for each in zip(images, params, strict=True)]


def _classify(_image: NDArray[np.uint8], _params: Question) -> ClassifyResult:
    scores = {"ball": 0.62, "person": 0.27, "parcel": 0.08, "bicycle": 0.02, "cat": 0.01}
    return ClassifyResult([Classification(label, score) for label, score in scores.items()])


def _segment(_image: NDArray[np.uint8], _params: Question) -> SegmentResult:
    return SegmentResult(
        [
            Segment(thing.label, CONFIDENCES[thing.label], thing.box, thing.mask)
            for thing in scene.THINGS
        ]
    )


def _pose(_image: NDArray[np.uint8], _params: Question) -> PoseResult:
    joints = [(float(x), float(y), 0.9) for x, y in scene.JOINTS.values()]
    person = next(thing for thing in scene.THINGS if thing.label == "person")
    return PoseResult([Keypoint("person", CONFIDENCES["person"], person.box, joints)])


def _depth(_image: NDArray[np.uint8], _params: Question) -> DepthResult:
    return DepthResult(scene.depth())


def _embed(image: NDArray[np.uint8], _params: Question) -> EmbedResult:
    """Compare the mean colours of four quarters with the mean of them all."""
    rows, columns = np.array_split(image, CELLS), range(CELLS)
    cells = [np.array_split(row, CELLS, axis=1)[c].mean((0, 1)) for row in rows for c in columns]
    vector = (np.array(cells) - np.mean(cells, axis=0)).ravel()
    length = np.linalg.norm(vector)
    return EmbedResult((vector / length if length else vector + 1 / vector.size).astype("float32"))


def _vlm(_image: NDArray[np.uint8], params: Question) -> VlmResult:
    found = [thing for thing in scene.THINGS if thing.label in params.prompt]
    text = msgspec.json.encode([{"label": t.label, "bbox": t.box} for t in found]).decode()
    return VlmResult(text, detections=[Detection(t.label, 1.0, t.box) for t in found])


_ANSWERS: dict[str, Callable[[NDArray[np.uint8], Question], Any]] = {
    "classify": _classify,
    "depth": _depth,
    "embed": _embed,
    "pose": _pose,
    "segment": _segment,
    "vlm": _vlm,
}


def load(spec: ModelSpec, _ctx: LoadContext) -> Planted:
    """Make the model of a task."""
    return Planted(_ANSWERS[spec.task])


@hookimpl
def backends() -> list[Backend]:
    """Return one backend a task."""
    return [
        Backend(
            name="colours" if task == "embed" else f"planted-{task}",
            task=task,
            source="pip",
            load=load,
            params=Question,
            engine="thread",
        )
        for task in _ANSWERS
    ]
