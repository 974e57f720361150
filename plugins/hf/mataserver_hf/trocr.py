"""Text recognition with TrOCR (Li et al. 2021, arXiv:2109.10282): one line of text per picture.

An image transformer encodes the picture, a text transformer writes its text token by token. It does
not detect lines: from a whole page it makes one guess, so pictures should be cropped to lines.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mataserver import MaxTokens, OcrResult, Params, TextRegion, Usage
from mataserver_hf import installation

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelFiles, ModelSpec
    from mataserver_hf.network import Network
    from mataserver_hf.preprocessor import Preprocessor

FAMILY = "vision-encoder-decoder"
"""The ``model_type`` that it serves, where the decoder's own one is ``DECODER``."""
DECODER = "trocr"

# The published checkpoints leave out the encoder's pooler, which is not used.
_UNUSED = re.compile(r"^encoder\.pooler\.")


class TrOcrParams(Params, frozen=True):
    """``max_tokens``: where a line is cut off; the decoder's own length is a limit beyond it."""

    max_tokens: MaxTokens = 128


class TrOcr:
    """An image encoder and a text decoder."""

    def __init__(self, network: Network, preprocessor: Preprocessor, tokenizer: Any) -> None:
        """Keep the loaded parts."""
        self._network = network
        self._preprocessor = preprocessor
        self._tokenizer = tokenizer
        # The first token of every text is an input, not generated.
        self._longest = network.config.decoder.max_position_embeddings - 1

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[TrOcrParams]
    ) -> list[OcrResult]:
        """Return the line of each image, as one region without a box and with confidence 1.0.

        The search (greedy or beams) is set by the checkpoint's ``generation_config.json``.
        """
        found: dict[int, OcrResult] = {}
        for length in dict.fromkeys(min(each.max_tokens, self._longest) for each in params):
            chosen = [
                i for i, each in enumerate(params) if min(each.max_tokens, self._longest) == length
            ]
            for indices, tensors in self._preprocessor.groups([images[i] for i in chosen]):
                tokens = self._network.run(tensors, "generate", max_new_tokens=length)
                texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
                # The first token of each row is the decoder's start.
                for index, text, row in zip(indices, texts, tokens[:, 1:].tolist(), strict=True):
                    usage = written_usage(row, self._network.end_tokens)
                    found[chosen[index]] = text_result(text, usage)
        return [found[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the weights."""
        self._network.close()


def text_result(text: str, usage: Usage) -> OcrResult:
    """Return the result of a model without boxes and scores: one region, or none without text."""
    stripped = text.strip()
    return OcrResult(stripped, [TextRegion(stripped, None, 1.0)] if stripped else [], usage)


def written_usage(row: Sequence[int], ends: Container[int], prompt: int = 0) -> Usage:
    """Count the tokens that were written for one image, up to its first of ``ends``.

    What follows is padding, up to the length of the batch. A text without an end was cut off.
    """
    for place, token in enumerate(row):
        if token in ends:
            return Usage(prompt, place + 1)
    return Usage(prompt, len(row), truncated=True)


def load(spec: ModelSpec, ctx: LoadContext) -> TrOcr:
    """Load a TrOCR.

    Raises ``MataError`` for an incomplete checkpoint and ``Unavailable`` for a missing package or
    device.
    """
    installation.check()
    from transformers import AutoModelForImageTextToText

    from mataserver_hf.checkpoint import Checkpoint

    checkpoint = Checkpoint(spec, ctx)
    network = checkpoint.network(AutoModelForImageTextToText, unused=_UNUSED)
    return TrOcr(network, checkpoint.preprocessor(), checkpoint.tokenizer())


def accepts(files: ModelFiles) -> bool:
    """Whether the checkpoint is an encoder-decoder whose decoder is TrOCR's.

    Other models have that encoder-decoder type as well: captioning, Donut, Nougat.
    """
    decoder = files.config.get("decoder")
    kind = decoder.get("model_type") if isinstance(decoder, dict) else None
    return files.model_type == FAMILY and kind == DECODER


BACKEND = installation.backend(
    name="hf-trocr",
    task="ocr",
    load=load,
    params=TrOcrParams,
    accepts=accepts,
)
