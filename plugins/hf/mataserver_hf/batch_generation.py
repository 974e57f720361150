"""Generates texts in batches, each to its own end.

What waits while a batch is generated forms the next one. A text ends at its own last token, and one
that nobody wants any more costs nothing once its batch has ended; a batch that nobody wants stops
at its next token. Where a batch fails, as for want of memory, each of its texts goes on alone.

Only ``load`` functions import this module: it imports torch and transformers.
"""

from __future__ import annotations

import threading
import traceback
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mataserver_hf.network import Network

    Tensors = dict[str, torch.Tensor]
    IsEnd = Callable[[list[int]], bool]


class BatchGenerator:
    """A network that continues prompts, up to ``max_batch`` of equal shapes at once.

    is_end:  whether a text that consists of these tokens ends with the last of them.
    options: what ``generate`` is called with besides.

    One thread at a time may use it and its texts.
    """

    def __init__(
        self, network: Network, is_end: IsEnd, max_batch: int, options: dict[str, Any]
    ) -> None:
        """Keep the network."""
        self._network = network
        self._is_end = is_end
        self._max_batch = max_batch
        self._options = options
        self._waiting: list[GeneratedText] = []
        self._batch: _Batch | None = None

    def open(self, prompt: Tensors, limit: int) -> GeneratedText:
        """Let a prompt wait for its batch; the text has at most ``limit`` tokens, at least one.

        ``prompt`` are the tensors of a batch of one.
        """
        text = GeneratedText(self, prompt, limit)
        self._waiting.append(text)
        return text

    def step(self) -> None:
        """Wait for the next tokens of the batch, or begin one if none is generated."""
        if self._batch is None:
            texts = self._next_texts()
            try:
                self._batch = _Batch(self._network, texts, self._is_end, self._options)
            except RuntimeError as error:  # there is no thread for it
                for text in texts:
                    text.error, text.is_ended = error, True
                return
        if not self._batch.step():
            self._waiting[:0] = self._batch.unfinished()
            self._batch = None

    def forget(self, text: GeneratedText) -> None:
        """Take a text that nobody wants out of the queue; stop its batch if that is unwanted."""
        if text in self._waiting:
            self._waiting.remove(text)
        batch = self._batch
        if batch is not None and all(each.is_ended for each in batch.texts):
            while batch.step():
                pass
            self._batch = None

    def close(self) -> None:
        """Stop the batch and free the weights."""
        for text in (*self._waiting, *(self._batch.texts if self._batch else ())):
            text.close()
        self._network.close()

    def _next_texts(self) -> list[GeneratedText]:
        """Take what can be computed with the text that waits longest."""
        first = self._waiting[0]
        count = 1 if first.is_alone else self._max_batch
        kind = self._kind(first)
        alike = [each for each in self._waiting if self._kind(each) == kind][:count]
        self._waiting = [each for each in self._waiting if each not in alike]
        return alike

    def _kind(self, text: GeneratedText) -> object:
        """Return what the texts of a batch have in common; all beams end at the same length."""
        shapes = tuple((name, tensor.shape) for name, tensor in text.prompt.items())
        return shapes, text.is_alone, text.limit if self._network.beams > 1 else 0


class GeneratedText:
    """One text: iterate over its tokens as they come.

    tokens:   those that were generated so far.
    is_ended: whether it has no more, or nobody wants it any more.
    is_alone: whether it is generated in a batch of its own, since a batch with it failed.
    """

    def __init__(self, generator: BatchGenerator, prompt: Tensors, limit: int) -> None:
        self._generator = generator
        self.prompt = prompt
        self.limit = limit
        self.tokens: list[int] = []
        self.is_ended = self.is_alone = False
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the new tokens, none after a step that brought none for this text."""
        read = 0
        while read < len(self.tokens) or not self.is_ended:
            if read == len(self.tokens):
                self._generator.step()
            new, read = self.tokens[read:], len(self.tokens)
            yield new
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Give the text up, unless it has ended."""
        if not self.is_ended:
            self.is_ended = True
            self._generator.forget(self)


class _AbandonedError(Exception):
    """Nobody wants any text of a batch."""


class _Batch:
    """The texts that one call of ``generate`` writes, in a thread of its own."""

    def __init__(
        self,
        network: Network,
        texts: Sequence[GeneratedText],
        is_end: IsEnd,
        options: dict[str, Any],
    ) -> None:
        self.texts = texts
        self._network = network
        self._is_end = is_end
        self._options = options
        self._given = [list(text.tokens) for text in texts]
        self._steps: SimpleQueue[list[tuple[int, list[int], bool]] | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def step(self) -> bool:
        """Wait for the next tokens and hand them out; return False once there are no more."""
        step = self._steps.get()
        if step is None:
            self._thread.join()
            self._end()
            return False
        for index, tokens, is_last in step:
            text = self.texts[index]
            text.tokens += tokens
            text.is_ended |= is_last
        return True

    def unfinished(self) -> list[GeneratedText]:
        """Return the texts to continue alone: the failure may be another one's, or all of them."""
        return [each for each in self.texts if not each.is_ended]

    def _end(self) -> None:
        error, self._error = self._error, None
        if error is not None:  # its frames hold the memory that the texts alone may need
            traceback.clear_frames(error.__traceback__)
        several = len(self.texts) > 1
        for text in self.texts:
            if text.is_ended:
                continue
            if error is not None and several:
                text.is_alone = True
            else:
                text.error, text.is_ended = error, True

    # the thread

    def _run(self) -> None:
        try:
            prompts = [text.prompt for text in self.texts]
            joined = {name: torch.cat([each[name] for each in prompts]) for name in prompts[0]}
            observer = _Observer(self.texts, self._is_end, self._steps.put, self._network.beams)
            options = dict(self._options)
            if any(self._given):
                options["logits_processor"] = LogitsProcessorList([_Repetition(self._given)])
            written = self._network.run(
                joined,
                "generate",
                num_return_sequences=1,  # the checkpoint's would give texts of other images
                max_new_tokens=max(text.limit for text in self.texts),
                stopping_criteria=StoppingCriteriaList([observer]),
                **options,
            )
            if self._network.beams > 1:  # only the best beam is the text
                begin = joined["input_ids"].shape[1] if "input_ids" in joined else 1
                rows = [self._up_to_end(row) for row in written[:, begin:].tolist()]
                self._steps.put([(index, row, True) for index, row in enumerate(rows)])
        except BaseException as error:  # noqa: BLE001 - raised where the texts are read
            if not isinstance(error, _AbandonedError):
                self._error = error
        finally:
            self._steps.put(None)

    def _up_to_end(self, row: list[int]) -> list[int]:
        """Return a row without the padding after its end."""
        ends = (place for place in range(1, len(row) + 1) if self._is_end(row[:place]))
        return row[: next(ends, len(row))]


class _Repetition(LogitsProcessor):
    """Lets a text begin with the tokens that a failed batch has given out already.

    The likeliest ones may be others in a batch of another size, and at random they are.
    """

    def __init__(self, given: Sequence[Sequence[int]]) -> None:
        self._given = given
        self._step = 0

    def __call__(self, _input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for row, tokens in enumerate(self._given):
            if self._step < len(tokens):
                scores[row] = -torch.inf
                scores[row, tokens[self._step]] = 0
        self._step += 1
        return scores


class _Observer(StoppingCriteria):
    """Passes on the new tokens of each step, and says which texts have ended."""

    def __init__(
        self,
        texts: Sequence[GeneratedText],
        is_end: IsEnd,
        put: Callable[[list[tuple[int, list[int], bool]]], None],
        beams: int,
    ) -> None:
        self._texts = texts
        self._is_end = is_end
        self._put = put
        self._beams = beams
        self._given = [len(text.tokens) for text in texts]
        self._written: list[list[int]] = [[] for _ in texts]
        self._done = [False] * len(texts)

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        if all(text.is_ended for text in self._texts):
            raise _AbandonedError
        if self._beams > 1:
            self._put([])
            return torch.full((input_ids.shape[0],), fill_value=False, device=input_ids.device)
        new = []
        for index, token in enumerate(input_ids[:, -1].tolist()):
            if not self._done[index]:
                last = self._add(index, token)
                if len(self._written[index]) > self._given[index]:
                    new.append((index, [token], last))
        self._put(new)
        return torch.tensor(self._done, device=input_ids.device)

    def _add(self, index: int, token: int) -> bool:
        """Add a token to a text; return whether it is the last one."""
        written, text = self._written[index], self._texts[index]
        written.append(token)
        last = len(written) >= text.limit or self._is_end(written)
        self._done[index] = last or text.is_ended
        return last
