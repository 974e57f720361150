"""Text recognition with GOT-OCR2 (Wei et al. 2024, arXiv:2409.01704): a whole page per picture.

It transcribes a page as plain text or, with ``ocr_type`` "format", as Markdown and LaTeX with
tables and formulas. It returns neither boxes nor scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from mataserver import MaxTokens, Params
from mataserver_hf import installation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import LoadContext, ModelSpec, OcrResult
    from mataserver_hf.text_reader import ReadingPrompt, TextReader

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

    def __init__(self, reader: TextReader, processor: Any, longest: int) -> None:
        """Keep the loaded parts.

        processor: GOT-OCR2's own, for prompts and pictures.
        longest:   how many tokens prompt and text may have together.
        """
        self._reader = reader
        self._processor = processor
        self._longest = longest

    def predict(self, images: Sequence[Image], params: Sequence[GotOcr2Params]) -> list[OcrResult]:
        """Return the text of each image, as one region without box, its confidence 1.0."""
        return self._reader.read(list(map(self._prompt, images, params)))

    def stream(self, image: Image, params: GotOcr2Params) -> Iterator[str | OcrResult]:
        """Yield the text of a page in pieces, then what ``predict`` returns."""
        return self._reader.stream(self._prompt(image, params))

    def close(self) -> None:
        """Free the weights."""
        self._reader.close()

    def _prompt(self, image: Image, params: GotOcr2Params) -> ReadingPrompt:
        from mataserver_hf.text_reader import ReadingPrompt

        prompt = self._processor(
            [image],
            format=params.ocr_type == "format",
            input_data_format="channels_last",
            return_tensors="pt",
            truncation=False,  # unlike what the tokenizer's files may say
            padding=False,
        )
        free = self._longest - prompt["input_ids"].shape[1]
        return ReadingPrompt(dict(prompt.items()), min(params.max_tokens, max(1, free)))


def load(spec: ModelSpec, ctx: LoadContext) -> GotOcr2:
    """Load a GOT-OCR2.

    Raises ``MataError`` for an incomplete checkpoint and ``Unavailable`` for a missing package or
    device.
    """
    installation.check()
    from transformers import AutoModelForImageTextToText, GotOcr2Processor

    from mataserver_hf.checkpoint import Checkpoint
    from mataserver_hf.text_reader import TextReader

    checkpoint = Checkpoint(spec, ctx)
    network = checkpoint.network(AutoModelForImageTextToText)
    tokenizer = checkpoint.tokenizer()
    processor: Any = GotOcr2Processor
    return GotOcr2(
        TextReader(network, tokenizer, ctx.max_batch, END, do_sample=False),
        processor(checkpoint.preprocessor().processor, tokenizer),
        network.config.get_text_config().max_position_embeddings,
    )


BACKEND = installation.backend(
    name="hf-got-ocr2",
    task="ocr",
    load=load,
    params=GotOcr2Params,
    accepts=FAMILIES,
)
