"""Compares an exported network, served as the plugin serves it, with torch and transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate

from mataserver import BadRequest
from mataserver_onnx.boxes import overlaps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mataserver_onnx.export.tracing import Checkpoint

    Pixels = NDArray[np.uint8]

MIN_SCORE, MAX_DETECTIONS = 0.3, 20
"""Detections from ``MIN_SCORE`` on, and at most so many, must be found again, both torch's in the
export's and the export's in torch's."""
_SAME_BOX = 0.8
_NO_CLASS, _LEAST = -1, 0.5


@dataclass(frozen=True, slots=True)
class Difference:
    """One kind of difference: its name, the largest seen, and the largest allowed."""

    name: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the difference is small enough; NaN is not."""
        return self.value <= self.limit

    def __str__(self) -> str:
        """Return it as one line."""
        verdict = "" if self.passed else f", more than {self.limit:g}"
        return f"{self.name}: {self.value:.2g}{verdict}"


class _Found(NamedTuple):
    """A detection; its box is in parts of the picture."""

    label: str
    score: float
    box: NDArray[np.float32]


LIMITS: dict[str, dict[str, tuple[float, float]]] = {
    "detect": {
        "detections not found again, of 1": (0.0, 0.15),
        "detections that torch has not, of 1": (0.0, 0.15),
        "scores": (1e-3, 0.15),
        "boxes, in parts of the picture": (1e-3, 0.05),
    },
    "classify": {"probabilities": (1e-3, 0.15), "best class differs, of 1": (0.0, 0.0)},
    "segment": {"pixels of another class, of 1": (1e-3, 0.05)},
    "depth": {"depths, of their range": (1e-3, 0.05)},
    "embed": {"1 - cosine": (1e-5, 0.03)},
}
"""The differences per task, each with its limits in full precision and in int8."""


def compare(
    checkpoint: Checkpoint, served: Any, params: Any, photos: Sequence[Pixels], *, int8: bool
) -> list[Difference]:
    """Return the largest difference over the photos of each of the task's kinds.

    ``served`` is the plugin's model and ``params`` a struct that leaves nothing out.
    """
    task = checkpoint.family.task
    if task == "detect" and not any(_strongest(_detections(checkpoint, photo)) for photo in photos):
        raise BadRequest(
            "torch detects nothing on the pictures, so there is nothing to compare: "
            "mataserver export takes others with --photos"
        )
    seen = [
        _MEASURES[task](checkpoint, photo, served.predict([photo], [params])[0]) for photo in photos
    ]
    return [
        # numpy's maximum is NaN where one of them is; Python's may pass it over.
        Difference(name, float(np.max([row[name] for row in seen])), limits[int8])
        for name, limits in LIMITS[task].items()
    ]


def _run_torch(checkpoint: Checkpoint, photo: Pixels) -> Any:
    """Run torch on a photo that transformers has prepared."""
    with torch.inference_mode():
        return checkpoint.module(**checkpoint.prepare(photo))


def _detections(checkpoint: Checkpoint, photo: Pixels) -> list[_Found]:
    """Return torch's detections of any score, best first."""
    [answer] = checkpoint.processor.post_process_object_detection(
        _run_torch(checkpoint, photo), threshold=0.0, target_sizes=[photo.shape[:2]]
    )
    order = answer["scores"].argsort(descending=True)
    named = checkpoint.module.config.id2label
    boxes = np.clip(answer["boxes"][order].numpy() / _edge(photo), 0, 1)
    return [
        _Found(named[int(label)], float(score), box)
        for label, score, box in zip(
            answer["labels"][order], answer["scores"][order], boxes, strict=True
        )
    ]


def _strongest(found: Sequence[_Found]) -> list[_Found]:
    """Return those that must be found again; ``found`` are the best first."""
    return [each for each in found if each.score > MIN_SCORE][:MAX_DETECTIONS]


def _edge(photo: Pixels) -> NDArray[np.float32]:
    height, width = photo.shape[:2]
    return np.array([width, height] * 2, np.float32)


def _detect(checkpoint: Checkpoint, photo: Pixels, result: Any) -> dict[str, float]:
    edge = _edge(photo)
    ours = [
        _Found(each.label, each.confidence, np.array(each.bbox, np.float32) / edge)
        for each in result.detections
    ]
    theirs = _detections(checkpoint, photo)
    lost, added = _pairs(_strongest(theirs), ours), _pairs(_strongest(ours), theirs)
    found = [pair for pair in (*lost, *added) if pair is not None]
    figures = (
        lost.count(None) / max(1, len(lost)),
        added.count(None) / max(1, len(added)),
        max((score for score, _ in found), default=0.0),
        max((box for _, box in found), default=0.0),
    )
    return dict(zip(LIMITS["detect"], figures, strict=True))


def _pairs(wanted: Sequence[_Found], given: Sequence[_Found]) -> list[tuple[float, float] | None]:
    """Find each of ``wanted`` again in ``given``, of which each is taken once.

    Returns the differences in score and box to the closest of its label, or None without one.
    """
    left = list(given)
    found: list[tuple[float, float] | None] = []
    for each in wanted:
        alike = [
            (abs(other.score - each.score), float(abs(other.box - each.box).max()), index)
            for index, other in enumerate(left)
            if other.label == each.label and _same(each.box, other.box)
        ]
        if not alike:
            found.append(None)
            continue
        score, box, index = min(alike, key=lambda apart: apart[0] + apart[1])
        del left[index]
        found.append((score, box))
    return found


def _same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    near = float(np.abs(one - other).max()) < 1e-3  # boxes too flat to overlap
    return near or float(overlaps(one, other[None])[0]) >= _SAME_BOX


def _classify(checkpoint: Checkpoint, photo: Pixels, result: Any) -> dict[str, float]:
    config = checkpoint.module.config
    logits = _run_torch(checkpoint, photo).logits[0]
    several = config.problem_type == "multi_label_classification" or config.num_labels == 1
    theirs = (logits.sigmoid() if several else logits.softmax(-1)).sort(descending=True)
    # Compared by rank, because some classes of ImageNet share a name.
    ours = [each.confidence for each in result.classifications]
    largest = float(np.abs(np.array(ours) - theirs.values.numpy()).max())
    differs = result.classifications[0].label != config.id2label[int(theirs.indices[0])]
    return dict(zip(LIMITS["classify"], (largest, float(differs)), strict=True))


def _segment(checkpoint: Checkpoint, photo: Pixels, result: Any) -> dict[str, float]:
    theirs = _classes_of_pixels(_run_torch(checkpoint, photo).logits, photo.shape[:2])
    named = checkpoint.module.config.id2label
    first = {name: index for index, name in reversed(named.items())}
    same = np.array([*(first[named[index]] for index in range(len(named))), _NO_CLASS])
    ours = np.full(photo.shape[:2], _NO_CLASS)
    for each in result.segments:
        ours[each.mask] = first[each.label]
    return dict(zip(LIMITS["segment"], (float((ours != same[theirs]).mean()),), strict=True))


def _classes_of_pixels(logits: torch.Tensor, size: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the class of each pixel; a class alone has those of at least half a probability."""
    alone = logits.shape[1] == 1
    maps = logits.sigmoid() if alone else logits
    [large] = interpolate(maps, size=size, mode="bilinear", align_corners=False)
    if alone:
        return np.where(large[0].numpy() >= _LEAST, 0, _NO_CLASS)
    found: NDArray[np.int64] = large.argmax(0).numpy()
    return found


def _depth(checkpoint: Checkpoint, photo: Pixels, result: Any) -> dict[str, float]:
    depth = _run_torch(checkpoint, photo).predicted_depth[:, None]
    size = photo.shape[:2]
    theirs = interpolate(depth, size=size, mode="bicubic", align_corners=False)[0, 0].numpy()
    span = float(theirs.max() - theirs.min()) or 1.0
    largest = float(np.abs(theirs - result.depth_map).max()) / span
    return dict(zip(LIMITS["depth"], (largest,), strict=True))


def _embed(checkpoint: Checkpoint, photo: Pixels, result: Any) -> dict[str, float]:
    [output] = checkpoint.family.outputs
    theirs = _run_torch(checkpoint, photo)[output][0].numpy().astype(np.float64)
    theirs /= np.linalg.norm(theirs)
    cosine = float(theirs @ result.embedding.astype(np.float64))
    return dict(zip(LIMITS["embed"], (float(np.maximum(0.0, 1 - cosine)),), strict=True))


_MEASURES: dict[str, Callable[[Any, Any, Any], dict[str, float]]] = {
    "detect": _detect,
    "classify": _classify,
    "segment": _segment,
    "depth": _depth,
    "embed": _embed,
}
