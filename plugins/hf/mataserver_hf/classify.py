"""Image classification with the classes that a model was trained on.

``rank`` also orders the scores of the zero-shot models.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mataserver import (
    Classification,
    ClassifyResult,
    Confidence,
    InvalidParams,
    Params,
    TopK,
)
from mataserver_hf import installation

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelFiles, ModelSpec
    from mataserver_hf.network import Network
    from mataserver_hf.preprocessor import Preprocessor

FAMILIES = frozenset(
    {
        "beit",
        "bit",
        "convnext",
        "convnextv2",
        "cvt",
        "data2vec-vision",
        "deit",
        "dinov2",
        "dinov2_with_registers",
        "efficientnet",
        "focalnet",
        "hiera",
        "levit",
        "mobilenet_v1",
        "mobilenet_v2",
        "mobilevit",
        "mobilevitv2",
        "poolformer",
        "pvt",
        "pvt_v2",
        "regnet",
        "resnet",
        "segformer",
        "swiftformer",
        "swin",
        "swinv2",
        "vit",
        "vit_msn",
    }
)
"""The values of ``model_type`` that it serves."""

IMAGE_TEXT_FAMILIES = frozenset({"clip", "siglip", "siglip2"})
"""Families that are zero-shot classifiers unless they were given a trained head."""


class ClassifyParams(Params, frozen=True):
    """What to return.

    confidence:  the lowest score of a class that is returned.
    top_k:       how many classes at most.
    use_softmax: false returns the logits as they are, and applies no ``confidence``; needed for a
                 network that was trained to measure (``problem_type`` "regression").
    """

    confidence: Confidence = 0.0
    top_k: TopK = 5
    use_softmax: bool = True


class Classifier:
    """A network with a trained classification head."""

    def __init__(self, network: Network, preprocessor: Preprocessor) -> None:
        """Keep the loaded parts."""
        self._network = network
        self._preprocessor = preprocessor
        config = network.config
        self._labels = network.labels
        # With several true labels at once, or a single one, each logit is scored by itself.
        self._independent = (
            config.num_labels == 1 or config.problem_type == "multi_label_classification"
        )
        self.measures: bool = config.problem_type == "regression"

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The ``(height, width)`` that images are resized to."""
        return self._preprocessor.input_size

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[ClassifyParams]
    ) -> list[ClassifyResult]:
        """Return the best classes of each image, best first.

        Raises ``InvalidParams`` when probabilities are requested from a regression network.
        """
        if self.measures and any(each.use_softmax for each in params):
            raise InvalidParams(
                "params.use_softmax: this network measures (problem_type is regression), and what "
                "it gives are no probabilities: ask with false"
            )
        found: dict[int, ClassifyResult] = {}
        for indices, tensors in self._preprocessor.groups(images):
            answers = self._network.finite(self._network.run(tensors).logits)
            for index, logits in zip(indices, answers, strict=True):
                found[index] = rank(self._labels, logits, params[index], self._independent)
        return [found[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the weights."""
        self._network.close()


def rank(
    labels: Sequence[str], logits: Any, params: ClassifyParams, independent: bool
) -> ClassifyResult:
    """Turn one image's logits (a float32 tensor ``[len(labels)]``) into its classes.

    Scores are the softmax over all labels, or the sigmoid of each where labels are ``independent``.
    Those below ``params.confidence`` are dropped, and the best ``params.top_k`` are returned.
    Without ``params.use_softmax`` the scores are the logits, and none is dropped.
    """
    scores, lowest = logits, -math.inf
    if params.use_softmax:
        scores = logits.sigmoid() if independent else logits.softmax(-1)
        lowest = params.confidence
    values = scores.cpu().numpy()
    best = [index for index in (-values).argsort(kind="stable") if values[index] >= lowest]
    return ClassifyResult(
        [Classification(labels[index], float(values[index])) for index in best[: params.top_k]]
    )


def load(spec: ModelSpec, ctx: LoadContext) -> Classifier:
    """Load a classifier.

    Raises ``MataError`` for a checkpoint that is incomplete or has no trained head, and
    ``Unavailable`` for a missing package or device.
    """
    installation.check()
    from transformers import AutoModelForImageClassification

    from mataserver_hf.checkpoint import Checkpoint

    checkpoint = Checkpoint(spec, ctx)
    network = checkpoint.network(AutoModelForImageClassification)
    model = Classifier(network, checkpoint.preprocessor())
    return checkpoint.compiled(model, ClassifyParams(use_softmax=not model.measures))


def accepts(files: ModelFiles) -> bool:
    """Whether the checkpoint is one of ``FAMILIES``, or an image-text model with a trained head."""
    if files.model_type in IMAGE_TEXT_FAMILIES:
        return has_trained_head(files)
    return files.model_type in FAMILIES


def has_trained_head(files: ModelFiles) -> bool:
    """Whether ``config.json`` names an architecture that ends in a classification head."""
    architectures = files.config.get("architectures") or ()
    return any(str(name).endswith("ForImageClassification") for name in architectures)


BACKEND = installation.backend(
    name="hf-classify",
    task="classify",
    load=load,
    params=ClassifyParams,
    accepts=accepts,
    compiles=True,
)
