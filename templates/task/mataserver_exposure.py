"""Measures the exposure of a picture: a task that the server itself does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from mataserver import Backend, Params, hookimpl

if TYPE_CHECKING:
    from mataserver import LoadContext, ModelSpec

TASK = "exposure.levels"

Share = Annotated[float, Meta(ge=0, le=1)]


class ExposureParams(Params, frozen=True):
    """Parameters of a request.

    dark: A pixel counts as dark up to this share of full brightness.
    """

    dark: Share = 0.1


class Exposure(Struct, frozen=True):
    """What is answered as ``output``: shares from 0 to 1.

    mean:  the mean brightness.
    dark:  how many pixels are dark.
    burnt: how many pixels are as bright as can be.
    """

    mean: Share
    dark: Share
    burnt: Share


class Meter:
    """The model."""

    def predict(self, images: Any, params: Any) -> list[Exposure]:
        """Return the exposure of each picture, an RGB array [H, W, 3] of any size."""
        return [self._measure(*pair) for pair in zip(images, params, strict=True)]

    def _measure(self, image: Any, params: ExposureParams) -> Exposure:
        grey = image.mean(axis=2) / 255
        return Exposure(
            mean=float(grey.mean()),
            dark=float((grey <= params.dark).mean()),
            burnt=float((grey >= 1).mean()),
        )


def load(_spec: ModelSpec, _ctx: LoadContext) -> Meter:
    """Load the model, in its worker."""
    return Meter()


@hookimpl
def backends() -> list[Backend]:
    """Return the backend; its ``result`` defines the result of the plugin's own task."""
    return [
        Backend(name="exposure", task=TASK, source="pip", load=load,
                params=ExposureParams, result=Exposure, max_batch=8),
    ]  # fmt: skip
