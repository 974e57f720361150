"""Text recognition by models that write what they read, without boxes and scores.

Only ``load`` functions import this module: it imports torch and transformers.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from mataserver import OcrResult, StopSequences, TextRegion, Usage
from mataserver_hf.batch_generation import BatchGenerator
from mataserver_hf.generation import IncrementalDecoder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver_hf.batch_generation import GeneratedText, Tensors
    from mataserver_hf.network import Network


class ReadingPrompt(NamedTuple):
    """A picture as the network gets it, and the most tokens that may be written for it."""

    tensors: Tensors
    limit: int


class TextReader:
    """A network that writes down the text of a picture.

    end:     what the text ends before, besides the network's own end tokens and the texts that its
             checkpoint names.
    options: what ``generate`` is called with besides.
    """

    def __init__(
        self, network: Network, tokenizer: Any, max_batch: int, end: str = "", **options: Any
    ) -> None:
        """Keep the loaded parts."""
        self._network = network
        self._tokenizer = tokenizer
        self._ends = (*([end] if end else []), *network.stops)
        # A token is at least a byte long, so an end is among as many; and a tokenizer may leave out
        # the space before the first of those that it decodes.
        self._window = max((len(each.encode()) for each in self._ends), default=0) + 1
        self._generator = BatchGenerator(network, self._is_end, max_batch, options)

    def read(self, prompts: Sequence[ReadingPrompt]) -> list[OcrResult]:
        """Return what is written for each prompt."""
        with contextlib.ExitStack() as opened:
            texts = [self._open(each) for each in prompts]
            for text in texts:
                opened.callback(text.close)
            for text in texts:
                for _ in text:
                    pass
            return [self._result(text) for text in texts]

    def stream(self, prompt: ReadingPrompt) -> Iterator[str | OcrResult]:
        """Yield the text in pieces, then the result.

        An empty piece says that the network is at work. Closing the iterator gives the text up.
        """
        with contextlib.closing(self._open(prompt)) as text:
            decoder = IncrementalDecoder(self._decode)
            pieces = _TrimmedPieces(self._ends)
            yield ""  # lets those that came at the same time join its batch
            for tokens in text:
                yield pieces.add("".join(map(decoder.add, tokens)))
            yield pieces.add(decoder.flush()) + pieces.rest()
            yield self._result(text)

    def close(self) -> None:
        """Free the weights."""
        self._generator.close()

    def _open(self, prompt: ReadingPrompt) -> GeneratedText:
        return self._generator.open(prompt.tensors, prompt.limit)

    def _is_end(self, tokens: list[int]) -> bool:
        if tokens[-1] in self._network.end_tokens:
            return True
        if not self._ends:
            return False
        written = self._tokenizer.decode(tokens[-self._window :])
        return any(each in written for each in self._ends)

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _result(self, text: GeneratedText) -> OcrResult:
        stops = StopSequences(self._ends)
        written = stops.add(self._tokenizer.decode(text.tokens, skip_special_tokens=True))
        asked = text.prompt.get("input_ids")
        usage = Usage(
            0 if asked is None else asked.shape[1],
            len(text.tokens),
            truncated=not self._is_end(text.tokens),
        )
        return text_result(written + stops.rest(), usage)


def text_result(text: str, usage: Usage) -> OcrResult:
    """Return the result of a model without boxes and scores: one region, or none without text."""
    stripped = text.strip()
    return OcrResult(stripped, [TextRegion(stripped, None, 1.0)] if stripped else [], usage)


class _TrimmedPieces:
    """Pieces of a text without the space around it, up to the first of ``ends``."""

    def __init__(self, ends: tuple[str, ...]) -> None:
        self._stops = StopSequences(ends)
        self._space = ""
        self._is_begun = False

    def add(self, piece: str) -> str:
        """Add to the text; return what certainly belongs to it now."""
        return self._trimmed(self._stops.add(piece))

    def rest(self) -> str:
        """Return what was held back, once the text is at its end."""
        return self._trimmed(self._stops.rest())

    def _trimmed(self, text: str) -> str:
        """Return the text without space at its ends, of which the last is kept for what follows."""
        text = self._space + text if self._is_begun else text.lstrip()
        certain = text.rstrip()
        self._space = text[len(certain) :]
        self._is_begun |= bool(certain)
        return certain
