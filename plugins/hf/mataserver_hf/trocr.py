"""Text recognition with TrOCR (Li et al. 2021, arXiv:2109.10282): one line of text a picture.

An image transformer reads the picture, a text transformer writes it down letter group by letter
group. It finds no lines: a page comes out as one guess, so pictures should be cut to lines first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mataserver import Backend, MaxTokens, OcrResult, Params, TextRegion
from mataserver_hf import installation

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelFiles, ModelSpec
    from mataserver_hf.network import Network
    from mataserver_hf.pixels import Pixels

FAMILY = "vision-encoder-decoder"
"""The ``model_type`` that it serves, where the decoder's own one is ``DECODER``."""
DECODER = "trocr"

# The published checkpoints leave out the encoder's pooler, which nothing reads.
_UNUSED = re.compile(r"^encoder\.pooler\.")


class TrOcrParams(Params, frozen=True):
    """``max_tokens``: where a line is cut off; the decoder's own length is a limit beyond it."""

    max_tokens: MaxTokens = 128


class TrOcr:
    """An encoder of pictures and a decoder of text."""

    def __init__(self, network: Network, pixels: Pixels, tokenizer: Any) -> None:
        """Keep the loaded parts."""
        self._network = network
        self._pixels = pixels
        self._tokenizer = tokenizer
        # Every text begins with one token that is given, not generated.
        self._longest = network.config.decoder.max_position_embeddings - 1

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[TrOcrParams]
    ) -> list[OcrResult]:
        """Return the line of each image, as one region without box, its confidence 1.0.

        The search (greedy or beams) is what the checkpoint's ``generation_config.json`` says.
        """
        found: dict[int, OcrResult] = {}
        for length in dict.fromkeys(min(each.max_tokens, self._longest) for each in params):
            chosen = [
                i for i, each in enumerate(params) if min(each.max_tokens, self._longest) == length
            ]
            for indices, tensors in self._pixels.groups([images[i] for i in chosen]):
                tokens = self._network.run(tensors, "generate", max_new_tokens=length)
                texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
                for index, text in zip(indices, texts, strict=True):
                    found[chosen[index]] = transcript(text)
        return [found[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the weights."""
        self._network.close()


def transcript(text: str) -> OcrResult:
    """Return the result of a model that knows neither boxes nor scores; no text, no region."""
    stripped = text.strip()
    return OcrResult(stripped, [TextRegion(stripped, None, 1.0)] if stripped else [])


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
    return TrOcr(network, checkpoint.pixels(), checkpoint.tokenizer())


def accepts(files: ModelFiles) -> bool:
    """Whether the checkpoint is an encoder-decoder whose decoder is TrOCR's.

    Other models have that encoder-decoder type as well: captioning, Donut, Nougat.
    """
    decoder = files.config.get("decoder")
    kind = decoder.get("model_type") if isinstance(decoder, dict) else None
    return files.model_type == FAMILY and kind == DECODER


BACKEND = Backend(
    name="hf-trocr",
    task="ocr",
    source="hf",
    load=load,
    params=TrOcrParams,
    accepts=accepts,
    requires=installation.REQUIRES,
    gpu=True,
    packages=installation.PACKAGES,
    preload=installation.PRELOAD,
    environment=installation.ENVIRONMENT,
)
