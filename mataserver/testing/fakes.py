"""``fake``: a complete plugin for tests.

Its backends derive answers from the pixels, so a test can verify that the right picture arrived;
the parameter ``behave`` makes them fail in every way that a real model can.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import signal
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct

from mataserver import plugins as plugin_host
from mataserver.contract.backend import Backend
from mataserver.contract.hookspecs import hookimpl
from mataserver.params.table import Confidence, Params, TopK
from mataserver.results import (
    Classification,
    ClassifyResult,
    DepthResult,
    Detection,
    DetectResult,
    Keypoint,
    OcrResult,
    PoseResult,
    Segment,
    SegmentResult,
    TextRegion,
    VlmResult,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mataserver.contract.backend import Image, LoadContext, ModelFiles, ModelSpec
    from mataserver.results import Box, Result

TASKS = ("classify", "depth", "detect", "ocr", "pose", "segment", "track", "vlm")
"""The tasks of the fake models: one ``fake-<task>`` for each."""

Behaviour = Literal["ok", "raise", "hang", "exit", "segfault", "garbage", "nan", "memory", "short"]


class FakeParams(Params, frozen=True, kw_only=True):
    """Parameters of the fake backends: two of the API, the rest their own."""

    confidence: Confidence = 0.5
    top_k: TopK = 5
    normalize: bool = True
    behave: Behaviour = "ok"
    seconds: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.0


class FakeSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """``plugins.fake``: the duration of a load, and whether it fails."""

    load_seconds: float = 0.0
    load_fails: bool = False
    load_exits: bool = False
    ballast_mb: int = 0


def _bright(image: Image) -> Box:
    """Return the box around pixels with red over 200; the whole image if there are none."""
    rows, columns = np.nonzero(image[:, :, 0] > 200)
    if not len(rows):
        return (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
    x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return (float(x1), float(y1), float(x2), float(y2))


def _detect(image: Image, label: str, box: Box, params: FakeParams) -> Result:
    found = [Detection(label, 0.9, box), Detection("faint", 0.3, box)]
    return DetectResult([each for each in found if each.confidence >= params.confidence])


def _segment(image: Image, label: str, box: Box, params: FakeParams) -> Result:
    mask = np.zeros(image.shape[:2], bool)
    mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
    found = [Segment(label, 0.9, box, mask), Segment("unmasked", 0.8, box)]
    return SegmentResult([each for each in found if each.confidence >= params.confidence])


def _classify(image: Image, label: str, box: Box, params: FakeParams) -> Result:
    scores = [Classification(f"{label}-{i}", 1.0 / (i + 2)) for i in range(10)]
    return ClassifyResult(scores[: params.top_k])


def _depth(image: Image, label: str, box: Box, params: FakeParams) -> Result:
    ramp = np.linspace(0.0, 1.0 if params.normalize else 10.0, image.shape[1], dtype=np.float32)
    return DepthResult(np.tile(ramp, (image.shape[0], 1)))


_ANSWERS: dict[str, Callable[[Image, str, Box, FakeParams], Result]] = {
    "classify": _classify,
    "depth": _depth,
    "detect": _detect,
    "track": _detect,
    "segment": _segment,
    "ocr": lambda _i, label, _b, _p: OcrResult(label, [TextRegion(label, None, 1.0)]),
    "pose": lambda _i, label, box, _p: PoseResult([Keypoint(label, 0.9, box, [(*box[:2], 0.8)])]),
    "vlm": lambda _i, label, _b, _p: VlmResult(label),
}


def _answer(task: str, image: Image, params: FakeParams) -> Result:
    height, width = image.shape[:2]
    return _ANSWERS[task](image, f"{width}x{height}", _bright(image), params)


class FakeModel:
    """Answers from the pixels, or misbehaves according to ``params.behave``."""

    def __init__(self, spec: ModelSpec, settings: FakeSettings) -> None:
        self._task = spec.task
        self._ballast = np.ones(settings.ballast_mb * 125_000)
        self.batches: list[int] = []

    def predict(self, images: Sequence[Image], params: Sequence[FakeParams]) -> list[Any]:
        """Answer each image."""
        self.batches.append(len(images))
        for each in params:
            time.sleep(each.seconds)
            _misbehave(each.behave)
        answers: list[Any] = [
            _broken(_answer(self._task, image, each), each.behave)
            for image, each in zip(images, params, strict=True)
        ]
        return answers[:-1] if any(each.behave == "short" for each in params) else answers

    def stream(self, image: Image, params: FakeParams) -> Iterator[str | Result]:
        """Yield the text of a ``vlm`` answer letter by letter, then the answer."""
        answer = _answer(self._task, image, params)
        for letter in answer.text if isinstance(answer, VlmResult) else "":
            time.sleep(params.seconds)
            _misbehave(params.behave)
            yield letter
        yield answer

    def echo(self, value: object) -> object:
        """Return ``value``: a method for services to call."""
        return value

    def count(self, stop: int) -> Iterator[int]:
        """Yield 0 to ``stop`` - 1: a method for services to stream."""
        yield from range(stop)

    def batch_sizes(self) -> list[int]:
        """Return the size of every batch so far."""
        return self.batches


class FakeTracker(FakeModel):
    """Keeps state per session: the ``track_id`` counts the session's frames."""

    def session(self, params: FakeParams) -> FakeTrack:
        """Return the state of a new session."""
        return FakeTrack(params)


class FakeTrack:
    """The state of one session."""

    def __init__(self, params: FakeParams) -> None:
        self._params = params
        self._frames = 0

    def step(self, image: Image) -> Result:
        """Answer one frame."""
        time.sleep(self._params.seconds)
        _misbehave(self._params.behave)
        self._frames += 1
        box = _bright(image)
        return DetectResult([Detection("thing", 0.9, box, track_id=self._frames)])


def _misbehave(behave: Behaviour) -> None:
    if behave == "raise":
        raise RuntimeError("secret detail at /some/path")
    if behave == "hang":
        time.sleep(3600)
    if behave == "exit":
        os._exit(3)
    if behave == "segfault":
        signal.raise_signal(signal.SIGSEGV)  # in this thread, so that it does not continue
    if behave == "memory":
        raise MemoryError


def _broken(answer: Result, behave: Behaviour) -> object:
    if behave == "garbage":
        return {"detections": "many"}
    if behave == "nan":
        return DetectResult([Detection("nan", float("nan"), (0.0, 0.0, 1.0, 1.0))])
    return answer


def load_fake(spec: ModelSpec, context: LoadContext) -> FakeModel:
    """Load a fake model according to ``plugins.fake``."""
    settings: FakeSettings = context.settings
    time.sleep(settings.load_seconds)
    if settings.load_fails:
        raise RuntimeError("secret detail at /some/path")
    if settings.load_exits:
        os._exit(4)
    return FakeTracker(spec, settings) if spec.task == "track" else FakeModel(spec, settings)


def _accepts(files: ModelFiles) -> bool:
    return files.model_type == "fake"


class FakePlugin:
    """A pip backend ``fake-<task>`` per task, and backends for hub models of type "fake"."""

    @hookimpl
    def settings(self) -> type[Struct]:
        """Return the type of ``plugins.fake``."""
        return FakeSettings

    @hookimpl
    def backends(self) -> list[Backend]:
        """Return the backends."""
        make = functools.partial(Backend, load=load_fake)
        served = functools.partial(make, params=FakeParams, max_batch=4)
        made = [served(name=f"fake-{task}", task=task, source="pip") for task in TASKS]
        hub = [
            served(name=f"fake-hub-{task}", task=task, source="hf", accepts=_accepts)
            for task in ("detect", "track")
        ]
        absent = make(
            name="fake-absent",
            task="detect",
            source="pip",
            requires=("a_module_that_nobody_has",),
            packages=("a-package-that-nobody-has",),
        )
        return [*made, *hub, absent]


fake = FakePlugin()
FAKE = importlib.metadata.EntryPoint("fake", "mataserver.testing:fake", plugin_host.GROUP)
"""The entry point of the fake plugin."""
