"""Text recognition with GOT-OCR2 (Wei et al. 2024, arXiv:2409.01704): a whole page per picture.

It transcribes a page as plain text or, with ``ocr_type`` "format", as Markdown and LaTeX with
tables and formulas. It returns neither boxes nor scores.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Literal

from mataserver import MaxTokens, Params, Usage
from mataserver_hf import installation
from mataserver_hf.trocr import text_result, written_usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelFiles, ModelSpec, OcrResult
    from mataserver_hf.network import Network

    Image = NDArray[np.uint8]

FAMILIES = frozenset({"got_ocr2"})
"""The values of ``model_type`` that it serves."""

END = "<|im_end|>"
"""What the model writes after the page."""


class GotOcr2Params(Params, frozen=True):
    """How to write a page down.

    ocr_type:   "ocr" plain text, "format" Markdown and LaTeX.
    max_tokens: where the text is cut off; the default is what the authors use for a full page. The
                model's own length is a limit beyond it.
    """

    ocr_type: Literal["ocr", "format"] = "ocr"
    max_tokens: MaxTokens = 4096


class GotOcr2:
    """A picture encoder before a language model."""

    def __init__(self, network: Network, processor: Any) -> None:
        """Keep the loaded parts; ``processor`` is GOT-OCR2's own, for prompts and pictures."""
        self._network = network
        self._processor = processor
        self._longest: int = network.config.get_text_config().max_position_embeddings

    def predict(self, images: Sequence[Image], params: Sequence[GotOcr2Params]) -> list[OcrResult]:
        """Return the text of each image, as one region without box, its confidence 1.0."""
        found: dict[int, OcrResult] = {}
        for wanted in dict.fromkeys(params):
            # Pages with equal parameters have prompts of one length, so a batch needs no padding.
            alike = [index for index, each in enumerate(params) if each == wanted]
            found.update(zip(alike, self._read([images[i] for i in alike], wanted), strict=True))
        return [found[index] for index in range(len(images))]

    def close(self) -> None:
        """Free the weights."""
        self._network.close()

    def _read(self, images: list[Image], params: GotOcr2Params) -> list[OcrResult]:
        prompt = self._processor(
            images,
            format=params.ocr_type == "format",
            input_data_format="channels_last",
            return_tensors="pt",
        )
        tokenizer, asked = self._processor.tokenizer, prompt["input_ids"].shape[1]
        tokens = self._network.run(
            dict(prompt.items()),
            "generate",
            do_sample=False,
            tokenizer=tokenizer,
            stop_strings=END,
            max_new_tokens=min(params.max_tokens, max(1, self._longest - asked)),
        )
        written = tokens[:, asked:]
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        return [
            text_result(text.partition(END)[0], self._usage(row, asked))
            for text, row in zip(texts, written.tolist(), strict=True)
        ]

    def _usage(self, row: list[int], asked: int) -> Usage:
        """Count the tokens of a page, up to the one that completes ``END``."""
        decode = self._processor.tokenizer.decode
        length = bisect_left(range(len(row) + 1), 1, key=lambda end: END in decode(row[:end]))
        usage = written_usage(row, self._network.end_tokens, asked)
        if length > len(row) or usage.completion_tokens < length:
            return usage
        return Usage(asked, length)


def load(spec: ModelSpec, ctx: LoadContext) -> GotOcr2:
    """Load a GOT-OCR2.

    Raises ``MataError`` for an incomplete checkpoint and ``Unavailable`` for a missing package or
    device.
    """
    installation.check()
    from transformers import AutoModelForImageTextToText, GotOcr2Processor

    from mataserver_hf.checkpoint import Checkpoint

    checkpoint = Checkpoint(spec, ctx)
    network = checkpoint.network(AutoModelForImageTextToText)
    processor: Any = GotOcr2Processor
    return GotOcr2(network, processor(checkpoint.preprocessor().processor, checkpoint.tokenizer()))


def accepts(files: ModelFiles) -> bool:
    """Whether the checkpoint is one of ``FAMILIES``."""
    return files.model_type in FAMILIES


BACKEND = installation.backend(
    name="hf-got-ocr2",
    task="ocr",
    load=load,
    params=GotOcr2Params,
    accepts=accepts,
)
