"""The plugin ``noop`` with a decoder that does not decode, in whatever process loads its models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import noop
import stub
from mataserver import Backend
from mataserver import hookimpl as implementation

if TYPE_CHECKING:
    from mataserver import LoadContext, ModelSpec


def load(spec: ModelSpec, context: LoadContext) -> noop.Noop:
    """Load nothing, and decode nothing from now on."""
    stub.decoder()
    return noop.load(spec, context)


@implementation
def backends() -> list[Backend]:
    """Return a backend for each model."""
    tasks = noop.TASKS.items()
    return [Backend(name=name, task=task, source="pip", load=load) for name, task in tasks]
