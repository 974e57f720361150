"""The plugin of the models of a real size."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import nets
from mataserver import Backend, Detection, DetectResult
from mataserver import hookimpl as implementation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver import LoadContext, ModelSpec


class Net:
    """A network and its results."""

    def __init__(self, name: str, threads: int) -> None:
        self._run = nets.build(name, threads)

    def predict(self, images: Sequence[Any], params: Sequence[Any]) -> list[DetectResult]:
        """Return the ten best of each image."""
        del params
        return [DetectResult([Detection(*each) for each in found]) for found in self._run(images)]


def load(spec: ModelSpec, context: LoadContext) -> Net:
    """Build the network; without a setting it has the threads of the machine."""
    return Net(spec.name, context.threads or os.cpu_count() or 1)


@implementation
def backends() -> list[Backend]:
    """Return a backend for each network."""
    return [Backend(name=name, task="detect", source="pip", load=load) for name in nets.SIDES]
