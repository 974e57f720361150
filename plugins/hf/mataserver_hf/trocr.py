"""Text recognition with TrOCR (Li et al. 2021, arXiv:2109.10282): one line of text per picture.

An image transformer encodes the picture, a text transformer writes its text token by token. It does
not detect lines: from a whole page it makes one guess, so pictures should be cropped to lines.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mataserver import MaxTokens, Params
from mataserver_hf import installation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelFiles, ModelSpec, OcrResult
    from mataserver_hf.preprocessor import Preprocessor
    from mataserver_hf.text_reader import ReadingPrompt, TextReader

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

    def __init__(self, reader: TextReader, preprocessor: Preprocessor, longest: int) -> None:
        """Keep the loaded parts; ``longest`` is the number of tokens that the decoder can write."""
        self._reader = reader
        self._preprocessor = preprocessor
        self._longest = longest

    def predict(
        self, images: Sequence[NDArray[np.uint8]], params: Sequence[TrOcrParams]
    ) -> list[OcrResult]:
        """Return the line of each image, as one region without a box and with confidence 1.0.

        The search (greedy or beams) is set by the checkpoint's ``generation_config.json``.
        """
        return self._reader.read(list(map(self._prompt, images, params)))

    def stream(self, image: NDArray[np.uint8], params: TrOcrParams) -> Iterator[str | OcrResult]:
        """Yield the text of a line in pieces, then what ``predict`` returns.

        With beams the text is one piece, since only the end shows which of them is best.
        """
        return self._reader.stream(self._prompt(image, params))

    def close(self) -> None:
        """Free the weights."""
        self._reader.close()

    def _prompt(self, image: NDArray[np.uint8], params: TrOcrParams) -> ReadingPrompt:
        from mataserver_hf.text_reader import ReadingPrompt

        [(_, tensors)] = self._preprocessor.groups([image])
        return ReadingPrompt(tensors, min(params.max_tokens, self._longest))


def load(spec: ModelSpec, ctx: LoadContext) -> TrOcr:
    """Load a TrOCR.

    Raises ``MataError`` for an incomplete checkpoint and ``Unavailable`` for a missing package or
    device.
    """
    installation.check()
    from transformers import AutoModelForImageTextToText

    from mataserver_hf.checkpoint import Checkpoint
    from mataserver_hf.text_reader import TextReader

    checkpoint = Checkpoint(spec, ctx)
    network = checkpoint.network(AutoModelForImageTextToText, unused=_UNUSED)
    # The first token of every text is an input, not generated.
    longest = network.config.decoder.max_position_embeddings - 1
    reader = TextReader(network, checkpoint.tokenizer(), ctx.max_batch)
    model = TrOcr(reader, checkpoint.preprocessor(), longest)
    return checkpoint.tried(model, TrOcrParams(max_tokens=1))


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
