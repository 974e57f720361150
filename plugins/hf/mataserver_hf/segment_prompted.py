"""Segmentation of the objects that a request names, by CLIPSeg (arXiv:2112.10003)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mataserver import Confidence, Params, SegmentResult, Text
from mataserver_hf import installation
from mataserver_hf.prompts import require_prompts, tokenize
from mataserver_hf.segment import segment_of_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelFiles, ModelSpec, Segment
    from mataserver_hf.network import Network
    from mataserver_hf.preprocessor import Preprocessor
    from mataserver_hf.prompts import Prompts

CACHED_PROMPTS = 32
"""How many sets of prompts keep their text features: a stream sends the same ones every frame."""


class PromptedParams(Params, frozen=True):
    """What to look for.

    prompts:         the objects; each is the label of its segment. Needed.
    mask_confidence: the lowest probability of a pixel that belongs to a segment.
    confidence:      the lowest score of a segment that is returned: the mean probability of its
                     pixels, so it matters where it is above ``mask_confidence``.
    """

    prompts: tuple[Text, ...] = ()
    confidence: Confidence = 0.5
    mask_confidence: Confidence = 0.5

    def check(self) -> None:
        """Raise ``InvalidParams`` without a prompt."""
        require_prompts(self.prompts)


class PromptedSegmenter:
    """CLIPSeg: at most one segment per prompt; segments may overlap."""

    def __init__(self, network: Network, preprocessor: Preprocessor, tokenizer: Any) -> None:
        """Keep the loaded parts."""
        self._network = network
        self._preprocessor = preprocessor
        self._tokenizer = tokenizer
        self._longest: int = network.config.text_config.max_position_embeddings
        self._text_features = lru_cache(CACHED_PROMPTS)(self._encode)

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[PromptedParams]
    ) -> list[SegmentResult]:
        """Return the segments of each image, best first.

        Raises ``InvalidParams`` for missing or too long prompts.
        """
        texts = [self._text_features(require_prompts(each.prompts)) for each in params]
        results: dict[int, SegmentResult] = {}
        for indices, tensors in self._preprocessor.groups(images):
            seen = self._network.run(tensors, "encode_images")
            for index, each in zip(indices, seen, strict=True):
                maps = self._network.run(
                    {"seen": each, "embeddings": texts[index]}, "decode_prompts"
                )
                height, width = images[index].shape[:2]
                results[index] = _result(self._network.finite(maps), (height, width), params[index])
        return [results[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the weights."""
        self._text_features.cache_clear()
        self._network.close()

    def _encode(self, prompts: Prompts) -> torch.Tensor:
        encoded = tokenize(self._tokenizer, prompts, self._longest)
        features = self._network.run(encoded, "get_conditional_embeddings", batch_size=len(prompts))
        return self._network.finite(features)


def _result(maps: torch.Tensor, size: tuple[int, int], params: PromptedParams) -> SegmentResult:
    """Threshold each of the logits ``[P, h, w]`` to one segment."""
    from mataserver_hf.segment_mask import stretch

    segments: list[Segment] = []
    for index, prompt in enumerate(params.prompts):
        [probabilities] = stretch(maps[index : index + 1], size).sigmoid()
        mask = probabilities >= params.mask_confidence
        if not mask.any():
            continue
        mean = probabilities[mask].mean().item()
        if mean >= params.confidence:
            segments.append(segment_of_mask(prompt, mean, mask))
    return SegmentResult(sorted(segments, key=lambda each: -each.confidence))


def load(spec: ModelSpec, ctx: LoadContext) -> PromptedSegmenter:
    """Load CLIPSeg.

    Raises ``MataError`` for an incomplete checkpoint and ``Unavailable`` for a missing package or
    device.
    """
    installation.check()
    from mataserver_hf.checkpoint import Checkpoint
    from mataserver_hf.segment_clipseg import TwoStepCLIPSeg

    checkpoint = Checkpoint(spec, ctx)
    network = checkpoint.network(TwoStepCLIPSeg)
    preprocessor, tokenizer = checkpoint.uncropped_preprocessor(), checkpoint.tokenizer()
    model = PromptedSegmenter(network, preprocessor, tokenizer)
    return checkpoint.tried(model, PromptedParams(prompts=("a",)))


def accepts(files: ModelFiles) -> bool:
    """Whether the checkpoint is a CLIPSeg."""
    return files.model_type == "clipseg"


BACKEND = installation.backend(
    name="hf-zero-shot-segment",
    task="segment",
    load=load,
    params=PromptedParams,
    accepts=accepts,
)
