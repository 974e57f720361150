"""Embeddings: an image as one vector of length one, for search by cosine similarity.

CLIP (arXiv:2103.00020), SigLIP (arXiv:2303.15343) and SigLIP 2 (arXiv:2502.14786) return the vector
that they compare with texts: CLIP's after its projection, SigLIP's from its attention pooling.
DINOv2 (arXiv:2304.07193, with registers arXiv:2309.16588) and DINOv3 (arXiv:2508.10104) return the
class token after the last layer norm; a convolutional DINOv3 the normalised mean of its last map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import EmbedResult, MataError, Params
from mataserver_hf import installation
from mataserver_hf.classify import IMAGE_TEXT_FAMILIES, has_trained_head

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelFiles, ModelSpec
    from mataserver_hf.network import Network
    from mataserver_hf.preprocessor import Preprocessor

FAMILIES = frozenset(
    {"dinov2", "dinov2_with_registers", "dinov3_convnext", "dinov3_vit"} | IMAGE_TEXT_FAMILIES
)
"""The values of ``model_type`` that it serves; image-text models without a trained head."""


class Embedder:
    """An image encoder."""

    def __init__(self, network: Network, preprocessor: Preprocessor, output: str) -> None:
        """Keep the loaded parts; ``output`` is the name of the output that holds the vectors."""
        self._network = network
        self._preprocessor = preprocessor
        self._output = output

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The ``(height, width)`` that images are resized to."""
        return self._preprocessor.input_size

    def predict(
        self,
        images: Sequence[NDArray[np.uint8]],
        params: Sequence[Params],  # noqa: ARG002 - there are none
    ) -> list[EmbedResult]:
        """Return a float32 vector ``[D]`` of each image.

        Raises ``MataError`` for a vector of zeros, which has no direction.
        """
        found: dict[int, EmbedResult] = {}
        for indices, tensors in self._preprocessor.groups(images):
            output = self._network.run(tensors)
            vectors = unit(self._network.finite(getattr(output, self._output)))
            for index, vector in zip(indices, vectors.cpu().numpy(), strict=True):
                found[index] = EmbedResult(vector)
        return [found[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the weights."""
        self._network.close()


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Scale each row to length one. Raises ``MataError`` for a row of zeros."""
    lengths: torch.Tensor = vectors.norm(dim=-1, keepdim=True)
    if not bool(lengths.all()):
        raise MataError("the network gave a vector of zeros, which has no direction")
    return vectors / lengths


def load(spec: ModelSpec, ctx: LoadContext) -> Embedder:
    """Load an image encoder; the text encoder of an image-text model stays on disk.

    Raises ``MataError`` for a checkpoint that is incomplete or made for another task, and
    ``Unavailable`` for a missing package or device.
    """
    installation.check()
    from mataserver_hf.embed_checkpoint import EmbedCheckpoint

    checkpoint = EmbedCheckpoint(spec, ctx)
    return checkpoint.compiled(Embedder(*checkpoint.open()), Params())


def accepts(files: ModelFiles) -> bool:
    """Whether the checkpoint is one of ``FAMILIES``; image-text models need their own output."""
    if files.model_type in IMAGE_TEXT_FAMILIES:
        return not has_trained_head(files)
    return files.model_type in FAMILIES


BACKEND = installation.backend(
    name="hf-embed",
    task="embed",
    load=load,
    accepts=accepts,
    compiles=True,
)
