"""Sharp or blurred, by the variance of the Laplacian (Pech-Pacheco et al., ICPR 2000)."""

from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct

from mataserver import Backend, Classification, ClassifyResult, hookimpl


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """``plugins.focus``: the variance that counts as half sharp."""

    half_sharp: Annotated[float, Meta(gt=0)] = 100.0


class Focus:
    """The model."""

    def __init__(self, half_sharp: float) -> None:
        self._half_sharp = half_sharp

    def predict(self, images: Any, _params: Any) -> list[ClassifyResult]:
        """Return "sharp" and "blurred" for each picture, the likelier one first."""
        return [self._classify(image) for image in images]

    def _classify(self, image: Any) -> ClassifyResult:
        grey = np.pad(image.mean(axis=2), 1, mode="edge")
        neighbours = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        variance = float(np.var(neighbours - 4 * grey[1:-1, 1:-1]))
        sharp = variance / (variance + self._half_sharp)
        classes = [Classification("sharp", sharp), Classification("blurred", 1 - sharp)]
        return ClassifyResult(sorted(classes, key=lambda each: -each.confidence))


def load(_spec: Any, ctx: Any) -> Focus:
    """Load the model, in its worker."""
    return Focus(ctx.settings.half_sharp)


@hookimpl
def settings() -> type[Settings]:
    return Settings


@hookimpl
def backends() -> list[Backend]:
    return [Backend(name="focus", task="classify", source="pip", load=load)]
