"""Embeddings: an image as one vector of length one, for search by cosine similarity."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mataserver import Backend, EmbedResult, MataError
from mataserver_onnx import installation

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec, Params
    from mataserver_onnx.network import Network

FAMILIES = frozenset(
    {
        "clip",
        "clip_vision_model",
        "dinov2",
        "dinov2_with_registers",
        "siglip",
        "siglip_vision_model",
    }
)
"""The values of ``model_type`` that are pulled from the hub as ONNX for this task."""


class Embedder:
    """An image encoder."""

    def __init__(self, network: Network) -> None:
        """Keep the network."""
        self._network = network

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The smallest (height, width) that images are resized to; None if they are not."""
        return self._network.input_size

    def predict(
        self,
        images: Sequence[NDArray[np.uint8]],
        params: Sequence[Params],  # noqa: ARG002 - there are none
    ) -> list[EmbedResult]:
        """Return a float32 vector ``[D]`` of each image.

        Of a vector per token the first is returned, that of the class token. Raises ``MataError``
        where there is none, and for a vector of zeros, which has no direction.
        """
        found = {
            index: EmbedResult(_unit(_vector(output, place.input_size)))
            for index, [output], place in self._network.run(images)
        }
        return [found[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the network."""
        self._network.close()


def _vector(output: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return the vector in the output for an image, for inputs of a (height, width)."""
    from mataserver_onnx import outputs

    if output.ndim == 2:
        outputs.check_class_token(len(output), size)
        output = output[0]
    elif output.size > len(output):
        raise MataError("the network gave a vector for each place of the image, and none for all")
    return output.ravel()


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = (vector.astype("float64") ** 2).sum() ** 0.5
    if not length:
        raise MataError("the network gave a vector of zeros, which has no direction")
    unit: NDArray[np.float32] = (vector / length).astype("float32")
    return unit


def load(spec: ModelSpec, ctx: LoadContext) -> Embedder:
    """Open an image encoder. Raises ``MataError`` for a network that cannot be used."""
    from mataserver_onnx.network import Network

    return Embedder(Network(spec, ctx))


BACKEND = Backend(
    name="onnx-embed",
    task="embed",
    source="any",
    load=load,
    accepts=installation.accepting("embed", FAMILIES),
    requires=installation.REQUIRES,
    gpu=installation.GPU,
    packages=installation.PACKAGES,
    environment=installation.ENVIRONMENT,
    facts=partial(installation.facts, "embed"),
)
