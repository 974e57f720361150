"""A plugin whose models answer what the tests know: many boxes, a turned one, a person, a disc."""

from __future__ import annotations

import importlib.metadata
from typing import Any, Literal

import numpy as np

from mataserver import (
    Backend,
    Confidence,
    Detection,
    DetectResult,
    Keypoint,
    OcrResult,
    Params,
    PoseResult,
    Segment,
    SegmentResult,
    TextRegion,
    hookimpl,
)

POINT = importlib.metadata.EntryPoint("planted", "planted:plugin", "mataserver")
TASKS = {"many": "detect", "turned": "detect", "person": "pose", "disc": "segment", "lines": "ocr"}
CORNERS = [[30.0, 10.0], [50.0, 30.0], [30.0, 50.0], [10.0, 30.0]]
PERSON = [
    [32, 6], [34, 5], [30, 5], [36, 6], [28, 6], [40, 16], [24, 16], [44, 24], [20, 24],
    [46, 32], [18, 32], [38, 34], [26, 34], [38, 44], [26, 44], [38, 54], [26, 54],
]  # fmt: skip


class PlantedParams(Params, frozen=True, kw_only=True):
    """Parameters.

    prompts: What to look for.
    shape:   Height and width.
    how:     What is found.
    images:  Further pictures.
    """

    confidence: Confidence = 0.0
    prompts: tuple[str, ...] = ()
    shape: tuple[int, int] | None = None
    how: Literal["everything", "instances", "regions", "objects"] = "everything"
    images: tuple[bytes, ...] = ()


def _many(image: Any, _params: PlantedParams) -> DetectResult:
    height, width = image.shape[:2]
    found = []
    for at in range(200):
        x, y = (at % 20) * width / 20, (at // 20) * height / 10
        box = (x, y, x + width / 25, y + height / 15)
        found.append(Detection(f"kind {at % 10}", 1 - at / 250, box))
    return DetectResult(found)


def _turned(_image: Any, params: PlantedParams) -> DetectResult:
    label = ", ".join(params.prompts) or f"turned {params.shape or ''}".strip()
    return DetectResult(
        [Detection(label, 0.8, (10.0, 10.0, 50.0, 50.0), extra={"corners": CORNERS})]
    )


def _person(_image: Any, _params: PlantedParams) -> PoseResult:
    points = [(float(x), float(y), 0.1 if at == 16 else 0.9) for at, (x, y) in enumerate(PERSON)]
    return PoseResult([Keypoint("person", 0.9, (16.0, 2.0, 48.0, 58.0), points)])


def _disc(image: Any, _params: PlantedParams) -> SegmentResult:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    mask = (x - 32) ** 2 + (y - 32) ** 2 < 400
    mask &= (x - 32) ** 2 + (y - 32) ** 2 > 25
    return SegmentResult([Segment("ring", 0.9, (12.0, 12.0, 52.0, 52.0), mask)])


def _lines(_image: Any, _params: PlantedParams) -> OcrResult:
    regions = [TextRegion("first line", (4.0, 4.0, 60.0, 12.0), 0.9)]
    regions.append(TextRegion("second line", (4.0, 20.0, 60.0, 28.0), 0.8))
    return OcrResult("first line\nsecond line", regions)


ANSWERS = {"many": _many, "turned": _turned, "person": _person, "disc": _disc, "lines": _lines}


class Planted:
    """Answers as its name says."""

    def __init__(self, name: str) -> None:
        self._answer = ANSWERS[name]

    def predict(self, images: Any, params: Any) -> list[Any]:
        """Answer each image."""
        return [self._answer(image, each) for image, each in zip(images, params, strict=True)]


def load(spec: Any, _context: Any) -> Planted:
    """Make the model."""
    return Planted(spec.name)


class Plugin:
    """The plugin."""

    @hookimpl
    def backends(self) -> list[Backend]:
        """Return a backend for each name."""
        return [
            Backend(name=name, task=task, source="pip", load=load, params=PlantedParams)
            for name, task in TASKS.items()
        ]


plugin = Plugin()
