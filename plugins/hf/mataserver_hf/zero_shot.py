"""Classification with the request's own classes, by models that compare images and text.

CLIP (Radford et al. 2021, arXiv:2103.00020) was trained to pick one text among several: its scores
are a softmax over the prompts. SigLIP (arXiv:2303.15343) and SigLIP 2 (arXiv:2502.14786) were
trained to judge each pair separately: their scores are sigmoids and need not sum to one. Both read
lower case.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mataserver import InvalidParams, Text  # noqa: TC001 - msgspec reads Text
from mataserver_hf import installation
from mataserver_hf.classify import (
    IMAGE_TEXT_FAMILIES,
    ClassifyParams,
    has_trained_head,
    rank,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import ClassifyResult, LoadContext, ModelFiles, ModelSpec
    from mataserver_hf.network import Network
    from mataserver_hf.preprocessor import Preprocessor

PLACEHOLDER = "{}"
CACHED_PROMPTS = 32
"""How many sets of prompts keep their text features: a stream sends the same ones every frame."""


class ZeroShotParams(ClassifyParams, frozen=True):
    """What to look for.

    prompts:         the classes; each is the label of its score. Needed.
    prompt_template: the sentence that the text encoder reads, with the prompt in place of ``{}``.
                     The default is the one that transformers' own pipeline uses; ``{}`` alone
                     sends the prompts alone. SigLIP and SigLIP 2 read lower case.
    """

    prompts: tuple[Text, ...] = ()
    prompt_template: Text = f"This is a photo of {PLACEHOLDER}."

    def check(self) -> None:
        """Raise ``InvalidParams`` where there is nothing for the text encoder to read."""
        sentences(self)


class ZeroShotClassifier:
    """A pair of encoders for images and text."""

    def __init__(self, network: Network, preprocessor: Preprocessor, tokenizer: Any) -> None:
        """Keep the loaded parts."""
        self._network = network
        self._preprocessor = preprocessor
        self._tokenizer = tokenizer
        self._independent = network.config.model_type != "clip"
        self._longest: int = network.config.text_config.max_position_embeddings
        self._scale = network.parameter("logit_scale").exp()
        self._bias = network.parameter("logit_bias") if self._independent else 0.0
        self._text_features = lru_cache(CACHED_PROMPTS)(self._encode)

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[ZeroShotParams]
    ) -> list[ClassifyResult]:
        """Return the best prompts of each image, best first.

        Raises ``InvalidParams`` for missing or too long prompts and a template without ``{}``.
        """
        texts = [self._text_features(sentences(each)) for each in params]
        found: dict[int, ClassifyResult] = {}
        for indices, tensors in self._preprocessor.groups(images):
            features = self._features(tensors, "get_image_features")
            for index, feature in zip(indices, features, strict=True):
                logits = texts[index] @ feature * self._scale + self._bias
                wanted = params[index]
                found[index] = rank(wanted.prompts, logits, wanted, self._independent)
        return [found[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the weights."""
        self._text_features.cache_clear()
        self._network.close()

    def _encode(self, texts: tuple[str, ...]) -> Any:
        """Return the features of ``texts``, ``[len(texts), D]``, each of length one."""
        if self._independent:
            # Both were trained on lower case only (SigLIP 2's paper, section 2). The tokenizer that
            # SigLIP 2's checkpoints name keeps capitals.
            texts = tuple(text.lower() for text in texts)
        if max(map(len, self._tokenizer(list(texts))["input_ids"])) > self._longest:
            raise InvalidParams(
                f"params.prompts: a prompt is longer than the {self._longest} tokens that this "
                "model reads"
            )
        # SigLIP was trained on texts padded to the full length only.
        padding: dict[str, Any] = {"padding": True}
        if self._independent:
            padding = {"padding": "max_length", "max_length": self._longest}
        tokens = self._tokenizer(list(texts), return_tensors="pt", **padding)
        return self._features(tokens, "get_text_features")

    def _features(self, tensors: Any, method: str) -> Any:
        features = self._network.finite(self._network.run(tensors, method).pooler_output)
        return features / features.norm(dim=-1, keepdim=True)


def sentences(params: ZeroShotParams) -> tuple[str, ...]:
    """Return the text encoder's inputs. Raises ``InvalidParams`` when there are none."""
    if not params.prompts:
        raise InvalidParams("params.prompts: this model needs at least one prompt")
    if PLACEHOLDER not in params.prompt_template:
        raise InvalidParams(
            f"params.prompt_template: must hold {PLACEHOLDER} where the prompt goes"
        )
    return tuple(
        params.prompt_template.replace(PLACEHOLDER, prompt.strip()) for prompt in params.prompts
    )


def load(spec: ModelSpec, ctx: LoadContext) -> ZeroShotClassifier:
    """Load a pair of encoders.

    Raises ``MataError`` for an incomplete checkpoint and ``Unavailable`` for a missing package or
    device.
    """
    installation.check()
    from transformers import AutoModelForZeroShotImageClassification

    from mataserver_hf.checkpoint import Checkpoint

    checkpoint = Checkpoint(spec, ctx)
    network = checkpoint.network(AutoModelForZeroShotImageClassification)
    model = ZeroShotClassifier(network, checkpoint.preprocessor(), checkpoint.tokenizer())
    return checkpoint.tried(model, ZeroShotParams(prompts=("a",)))


def accepts(files: ModelFiles) -> bool:
    """Whether the checkpoint is an image-text model without a trained head."""
    return files.model_type in IMAGE_TEXT_FAMILIES and not has_trained_head(files)


BACKEND = installation.backend(
    name="hf-zero-shot-classify",
    task="classify",
    load=load,
    params=ZeroShotParams,
    accepts=accepts,
)
