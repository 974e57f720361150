"""The plugin of the models of a real size."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import exported
import mataserver_onnx
import nets
from mataserver import Backend, Detection, DetectResult, ModelSpec
from mataserver import hookimpl as implementation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver import LoadContext


SUFFIX = "-onnx"


class Net:
    """A network and its results."""

    def __init__(self, name: str, threads: int) -> None:
        self._run = nets.build(name, threads)

    def predict(self, images: Sequence[Any], params: Sequence[Any]) -> list[DetectResult]:
        """Return the ten best of each image."""
        del params
        return [DetectResult([Detection(*each) for each in found]) for found in self._run(images)]


class Exported:
    """A network as the plugin onnx serves it, cut to its ten best."""

    def __init__(self, name: str, context: LoadContext) -> None:
        task, backend = exported.TASKS[name], onnx(name)
        wanted = {"top_k": nets.LABELS} if task == "classify" else {}
        self._params = backend.params(confidence=0.0, **wanted)
        self._model = backend.load(
            ModelSpec(name, task, "local", exported.folder(name)),
            dataclasses.replace(context, settings=mataserver_onnx.settings()()),
        )

    def predict(self, images: Sequence[Any], params: Sequence[Any]) -> list[DetectResult]:
        """Return the ten best of each image."""
        results = self._model.predict(images, [self._params] * len(params))
        return [DetectResult(_best(result)) for result in results]


def _best(result: Any) -> list[Detection]:
    found = getattr(result, "detections", None) or result.classifications
    best = sorted(found, key=lambda each: -each.confidence)[: nets.LABELS]
    return [Detection(it.label, it.confidence, getattr(it, "bbox", (0.0,) * 4)) for it in best]


def onnx(name: str) -> Backend:
    """Return the backend of the plugin onnx for a network."""
    wanted = f"onnx-{exported.TASKS[name]}"
    return next(each for each in mataserver_onnx.backends() if each.name == wanted)


def load_exported(spec: ModelSpec, context: LoadContext) -> Exported:
    """Open the network's ONNX."""
    return Exported(spec.name.removesuffix(SUFFIX), context)


def load(spec: ModelSpec, context: LoadContext) -> Net:
    """Build the network; without a setting it has the threads of the machine."""
    return Net(spec.name, context.threads or os.cpu_count() or 1)


@implementation
def backends() -> list[Backend]:
    """Return a backend for each network."""
    own = [Backend(name=name, task="detect", source="pip", load=load) for name in nets.SIDES]
    return own + [
        Backend(
            name=name + SUFFIX,
            task="detect",
            source="pip",
            load=load_exported,
            environment=onnx(name).environment,
        )
        for name in nets.SIDES
    ]
