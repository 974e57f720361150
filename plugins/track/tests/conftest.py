"""Fixtures: detectors that the tests control, behind the real tracker."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from mataserver import Confidence, Detection, DetectResult, LoadedPart, Params
from mataserver_track.options import Settings
from mataserver_track.tracker import Tracker
from openapi_watch import documented_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["documented_answers"]

COLOURS = {
    "red": (230, 20, 20),
    "green": (20, 230, 20),
    "blue": (20, 20, 230),
    "yellow": (230, 230, 20),
    "cyan": (20, 230, 230),
    "magenta": (230, 20, 230),
}


class DetectorParams(Params, frozen=True, kw_only=True):
    """What a detector usually takes."""

    confidence: Confidence = 0.5


class Blobs:
    """Finds the visible part of each colour; its confidence is the part of ``area`` it can see.

    ``misses`` is the chance that it overlooks one.
    """

    def __init__(self, area: float = 1.0, misses: float = 0.0, seed: int = 0) -> None:
        self.area = area
        self.misses = misses
        self.chance = np.random.default_rng(seed)

    def predict(self, images: Sequence[Any], params: Sequence[DetectorParams]) -> list[Any]:
        """Return the blobs of each image, in the order of ``COLOURS``."""
        return [
            DetectResult(list(self._blobs(image, given.confidence)))
            for image, given in zip(images, params, strict=True)
        ]

    def _blobs(self, image: Any, threshold: float) -> Iterator[Detection]:
        keys = _key(image)
        for label, colour in COLOURS.items():
            rows, columns = np.nonzero(keys == _key(np.array(colour)))
            seen = min(1.0, len(rows) / self.area)
            missed = self.chance.random() < self.misses
            if len(rows) and seen >= threshold and not missed:
                x1, y1 = float(columns.min()), float(rows.min())
                x2, y2 = float(columns.max() + 1), float(rows.max() + 1)
                yield Detection(label, seen, (x1, y1, x2, y2))


def _key(colour: Any) -> Any:
    """Return colours ``[..., 3]`` as one number each, which compares faster."""
    return np.asarray(colour, np.int32) @ np.array([65_536, 256, 1], np.int32)


class Script:
    """Answers call by call with the detections it was given, whatever it is shown."""

    def __init__(self, frames: Sequence[Sequence[Detection]]) -> None:
        self.frames = iter(frames)
        self.asked: list[Any] = []

    def predict(self, images: Sequence[Any], params: Sequence[Any]) -> list[DetectResult]:
        """Return the next frame's detections, for each image."""
        self.asked += params
        return [DetectResult(list(next(self.frames))) for _ in images]


@pytest.fixture
def blobs() -> type[Blobs]:
    """The detector of colours."""
    return Blobs


@pytest.fixture
def script() -> type[Script]:
    """The detector that follows a script."""
    return Script


@pytest.fixture
def tracker() -> Callable[..., Tracker]:
    """``tracker(detector, clock=..., **settings)`` is the model, at 32 frames a second."""

    def make(detector: Any, clock: Any = None, params: Any = DetectorParams, **given: Any) -> Any:
        ticks = itertools.count()
        settings = msgspec.convert(given, Settings)
        part = LoadedPart(detector, params)
        return Tracker(part, settings, clock or (lambda: next(ticks) / 32))

    return make


@pytest.fixture(scope="session")
def colours() -> dict[str, tuple[int, int, int]]:
    """The colours that ``Blobs`` knows, by label."""
    return COLOURS
