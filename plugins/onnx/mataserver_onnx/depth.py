"""Depth estimation from one image: a value per pixel."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mataserver import Backend, DepthResult, Params
from mataserver_onnx import installation

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec
    from mataserver_onnx.network import Network

FAMILIES = frozenset({"depth_anything", "dpt", "glpn"})
"""The values of ``model_type`` that are pulled from the hub as ONNX for this task."""


_ROUNDING = 1e-5


class DepthParams(Params, frozen=True):
    """How to return the map.

    normalize:   stretch the map to 0..1 (a constant map becomes zeros); false returns the
                 network's own values.
    target_size: ``[height, width]`` of the map; by default the image's.
    """

    normalize: bool = True
    target_size: tuple[int, int] | None = None


class DepthEstimator:
    """A network that predicts one value per pixel."""

    def __init__(self, network: Network) -> None:
        """Keep the network."""
        self._network = network

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[DepthParams]
    ) -> list[DepthResult]:
        """Return a float32 map ``[h, w]`` of each image."""
        from mataserver_onnx.resample import bicubic

        found: dict[int, DepthResult] = {}
        for index, [output], place in self._network.run(images):
            flat = output.reshape(output.shape[-2:])
            values = bicubic(flat, params[index].target_size or place.size)
            found[index] = DepthResult(_normalize(values) if params[index].normalize else values)
        return [found[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the network."""
        self._network.close()


def _normalize(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch to 0..1; a map that is constant up to rounding becomes zeros."""
    low, high = float(values.min()), float(values.max())
    if high - low <= _ROUNDING * max(abs(low), abs(high)):
        return values * 0
    normalized: NDArray[np.float32] = (values - low) / (high - low)
    return normalized


def load(spec: ModelSpec, ctx: LoadContext) -> DepthEstimator:
    """Open a depth estimator. Raises ``MataError`` for a network that cannot be used."""
    from mataserver_onnx.network import Network

    return DepthEstimator(Network(spec, ctx))


BACKEND = Backend(
    name="onnx-depth",
    task="depth",
    source="any",
    load=load,
    params=DepthParams,
    accepts=installation.accepting("depth", FAMILIES),
    requires=installation.REQUIRES,
    gpu=installation.GPU,
    packages=installation.PACKAGES,
    environment=installation.ENVIRONMENT,
    facts=partial(installation.facts, "depth"),
)
