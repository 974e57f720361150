"""The plugin of a model that takes its time, or dies, when it is asked to."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from mataserver import Backend, Detection, DetectResult, Params
from mataserver import hookimpl as implementation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver import LoadContext, ModelSpec


class Wishes(Params, frozen=True, kw_only=True):
    """How long an inference takes, and how it ends."""

    seconds: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.0
    end: Literal["well", "exit", "segfault"] = "well"


class Faulty:
    """Answers one detection, if it answers."""

    def predict(self, images: Sequence[Any], params: Sequence[Wishes]) -> list[DetectResult]:
        """Do what each image's parameters say."""
        for each in params:
            time.sleep(each.seconds)
            if each.end == "exit":
                os._exit(3)
            if each.end == "segfault":
                signal.raise_signal(signal.SIGSEGV)
        return [DetectResult([Detection("thing", 1.0, (0.0, 0.0, 1.0, 1.0))]) for _ in images]


def load(spec: ModelSpec, context: LoadContext) -> Faulty:
    """Load nothing."""
    del spec, context
    return Faulty()


@implementation
def backends() -> list[Backend]:
    """Return the one backend."""
    return [Backend(name="faulty", task="detect", source="pip", load=load, params=Wishes)]
