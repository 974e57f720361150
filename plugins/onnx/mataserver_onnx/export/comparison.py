"""Compares an exported network, served as the plugin serves it, with torch and transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
"""Torch's detections from ``MIN_SCORE`` on, and at most so many, must be found again."""
_SAME_BOX = 0.8


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


LIMITS: dict[str, dict[str, tuple[float, float]]] = {
    "detect": {
        "detections not found again, of 1": (0.0, 0.15),
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
    if task == "detect" and not any(_detections(checkpoint, photo)[0] for photo in photos):
        raise BadRequest(
            "torch detects nothing on the pictures, so there is nothing to compare: "
            "mataserver export takes others with --photos"
        )
    seen = [
        _MEASURES[task](checkpoint, photo, served.predict([photo], [params])[0]) for photo in photos
    ]
    return [
        Difference(name, float(max(row[name] for row in seen)), limits[int8])
        for name, limits in LIMITS[task].items()
    ]


def _run_torch(checkpoint: Checkpoint, photo: Pixels) -> Any:
    """Run torch on a photo that transformers has prepared."""
    with torch.inference_mode():
        return checkpoint.module(**checkpoint.prepare(photo))


def _detections(checkpoint: Checkpoint, photo: Pixels) -> tuple[list[str], Any, Any]:
    """Return torch's strongest detections: labels, scores and relative boxes."""
    [answer] = checkpoint.processor.post_process_object_detection(
        _run_torch(checkpoint, photo), threshold=MIN_SCORE, target_sizes=[photo.shape[:2]]
    )
    order = answer["scores"].argsort(descending=True)[:MAX_DETECTIONS]
    named = checkpoint.module.config.id2label
    labels = [named[int(label)] for label in answer["labels"][order]]
    boxes = np.clip(answer["boxes"][order].numpy() / _edge(photo), 0, 1)
    return labels, answer["scores"][order].numpy(), boxes


def _edge(photo: Pixels) -> NDArray[np.float32]:
    height, width = photo.shape[:2]
    return np.array([width, height] * 2, np.float32)


def _detect(checkpoint: Checkpoint, photo: Pixels, result: Any) -> dict[str, float]:
    ours = _arrays(result, _edge(photo))
    theirs = list(zip(*_detections(checkpoint, photo), strict=True))
    pairs = [_closest(label, box, score, ours) for label, score, box in theirs]
    found = [pair for pair in pairs if pair is not None]
    figures = (
        (len(pairs) - len(found)) / max(1, len(pairs)),
        max((score for score, _ in found), default=0.0),
        max((box for _, box in found), default=0.0),
    )
    return dict(zip(LIMITS["detect"], figures, strict=True))


def _arrays(result: Any, edge: NDArray[np.float32]) -> tuple[list[str], Any, Any]:
    found = result.detections
    boxes = np.array([each.bbox for each in found], np.float32).reshape(-1, 4) / edge
    return [each.label for each in found], np.array([each.confidence for each in found]), boxes


def _closest(
    label: str, box: NDArray[np.float32], score: Any, ours: tuple[list[str], Any, Any]
) -> tuple[float, float] | None:
    """Return the differences in score and box to the closest detection of a label, or None."""
    labels, scores, boxes = ours
    alike = [
        index for index in range(len(labels)) if labels[index] == label and _same(box, boxes[index])
    ]
    if not alike:
        return None
    best = min(alike, key=lambda index: float(abs(boxes[index] - box).max()))
    return abs(float(scores[best]) - float(score)), float(abs(boxes[best] - box).max())


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
    logits = _run_torch(checkpoint, photo).logits
    large = interpolate(logits, size=photo.shape[:2], mode="bilinear", align_corners=False)
    named = checkpoint.module.config.id2label
    first = {name: index for index, name in reversed(named.items())}
    same = np.array([first[named[index]] for index in range(logits.shape[1])])
    theirs = same[large[0].argmax(0).numpy()]
    ours = np.full(photo.shape[:2], -1)
    for each in result.segments:
        ours[each.mask] = first[each.label]
    return dict(zip(LIMITS["segment"], (float((ours != theirs).mean()),), strict=True))


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
    return dict(zip(LIMITS["embed"], (max(0.0, 1 - cosine),), strict=True))


_MEASURES: dict[str, Callable[[Any, Any, Any], dict[str, float]]] = {
    "detect": _detect,
    "classify": _classify,
    "segment": _segment,
    "depth": _depth,
    "embed": _embed,
}
