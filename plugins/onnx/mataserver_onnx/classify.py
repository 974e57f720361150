"""Image classification with the classes that a network was trained on."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from mataserver import (
    Backend,
    Classification,
    ClassifyResult,
    Confidence,
    InvalidParams,
    Params,
    TopK,
)
from mataserver_onnx import installation

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec
    from mataserver_onnx.network import Network

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
"""The values of ``model_type`` that are pulled from the hub as ONNX for this task."""


class ClassifyParams(Params, frozen=True):
    """What to return.

    confidence:  the lowest score of a class that is returned.
    top_k:       how many classes at most.
    use_softmax: false returns the logits as they are, and applies no ``confidence``; a network
                 that ends in probabilities has none.
    """

    confidence: Confidence = 0.0
    top_k: TopK = 5
    use_softmax: bool = True


class Classifier:
    """A network with a trained classification head."""

    def __init__(self, network: Network) -> None:
        """Keep the network, and determine which activation its scores need.

        Raises ``MataError`` when its outputs contradict its file.
        """
        from mataserver_onnx import scores

        self._network = network
        self._activation = scores.find(network)

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The smallest (height, width) that images are resized to; None if they are not."""
        return self._network.input_size

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[ClassifyParams]
    ) -> list[ClassifyResult]:
        """Return the best classes of each image, best first.

        Raises ``InvalidParams`` when logits are requested from a network that ends in
        probabilities.
        """
        if self._activation.activation == "none" and not all(each.use_softmax for each in params):
            raise InvalidParams("params.use_softmax: this network gives probabilities only")
        found = {
            index: self._rank(outputs[0].ravel(), params[index])
            for index, outputs, _ in self._network.run(images)
        }
        return [found[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the network."""
        self._network.close()

    def _rank(self, logits: NDArray[np.float32], params: ClassifyParams) -> ClassifyResult:
        labels = self._network.labels
        labels.check(len(logits))
        scores, lowest = self._scores(logits, params), -math.inf
        if params.use_softmax:
            lowest = params.confidence
        best = [index for index in (-scores).argsort(kind="stable") if scores[index] >= lowest]
        return ClassifyResult(
            [
                Classification(labels[int(index)], float(scores[index]))
                for index in best[: params.top_k]
            ]
        )

    def _scores(self, numbers: NDArray[np.float32], params: ClassifyParams) -> NDArray[np.float32]:
        from mataserver_onnx import scores

        return scores.apply(self._activation, numbers) if params.use_softmax else numbers


def load(spec: ModelSpec, ctx: LoadContext) -> Classifier:
    """Open a classifier. Raises ``MataError`` for a network that cannot be used."""
    from mataserver_onnx.network import Network

    return Classifier(Network(spec, ctx))


BACKEND = Backend(
    name="onnx-classify",
    task="classify",
    source="any",
    load=load,
    params=ClassifyParams,
    accepts=installation.accepting("classify", FAMILIES),
    requires=installation.REQUIRES,
    gpu=installation.GPU,
    packages=installation.PACKAGES,
    environment=installation.ENVIRONMENT,
    facts=partial(installation.facts, "classify"),
)
