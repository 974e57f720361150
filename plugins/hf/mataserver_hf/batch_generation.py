"""Generates texts in batches, each to its own end.

What waits when a batch begins is part of it. A text ends at its own last token, and one that nobody
wants any more costs nothing once its batch has ended; a batch that nobody wants stops at its next
token. Where a batch fails, as for want of memory, its texts go on alone, one after the other.

Only ``load`` functions import this module: it imports torch and transformers.
"""

from __future__ import annotations

import threading
import traceback
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from mataserver_hf.batch_steps import AbandonedError, NumbersOnly, Observer, RowChoices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mataserver_hf.batch_steps import Choose, IsEnd, Step
    from mataserver_hf.network import Network

    Tensors = dict[str, torch.Tensor]


class BatchGenerator:
    """A network that continues prompts, up to ``max_batch`` of equal shapes at once.

    is_end:  whether a text that consists of these tokens ends with the last of them.
    options: what ``generate`` is called with besides.
    at_once: whether a text begins when it is first asked for, beside the batches that are being
             generated; otherwise it waits for their end, which makes larger batches.

    One thread at a time may use it and its texts.
    """

    def __init__(
        self,
        network: Network,
        is_end: IsEnd,
        max_batch: int,
        options: dict[str, Any],
        *,
        at_once: bool = False,
    ) -> None:
        """Keep the network."""
        self._network = network
        self._is_end = is_end
        self._max_batch = max_batch
        self._options = options
        self._at_once = at_once
        self._waiting: list[GeneratedText] = []
        self._running: list[_Batch] = []

    def open(
        self, prompt: Tensors, limit: int, make_choice: Callable[[], Choose] | None = None
    ) -> GeneratedText:
        """Let a prompt wait for its batch; the text has at most ``limit`` tokens, at least one.

        ``prompt`` are the tensors of a batch of one. ``make_choice()`` makes the likeliest token
        the one to take, from the first step on: without it the network and ``options`` choose.
        """
        text = GeneratedText(self, prompt, limit, make_choice)
        self._waiting.append(text)
        return text

    def step(self, text: GeneratedText) -> None:
        """Wait for the next tokens of a text's batch, or of the one that it waits for."""
        batch = next((each for each in self._running if text in each.texts), None)
        if batch is None and (batch := self._in_the_way(text)) is None:
            texts = self._next_texts(text)
            try:
                batch = _Batch(self._network, texts, self._is_end, self._options, self._beams)
            except RuntimeError as error:  # there is no thread for it
                for each in texts:
                    each.error, each.is_ended = error, True
                return
            self._running.append(batch)
        if not batch.step():
            self._running.remove(batch)
            self._waiting[:0] = batch.unfinished()
        self._stop_unwanted()

    def forget(self, text: GeneratedText) -> None:
        """Take a text that nobody wants out of the queue; stop its batch if that is unwanted."""
        if text in self._waiting:
            self._waiting.remove(text)
        self._stop_unwanted()

    def close(self) -> None:
        """Stop all batches and free the weights."""
        for text in (*self._waiting, *(each for batch in self._running for each in batch.texts)):
            text.close()
        self._network.close()

    def _stop_unwanted(self) -> None:
        """Stop the batches of which no text goes on, and free what they hold."""
        for batch in tuple(self._running):
            if not batch.unfinished():
                while batch.step():
                    pass
                self._running.remove(batch)

    @property
    def _beams(self) -> int:
        return self._options.get("num_beams") or self._network.beams

    def _in_the_way(self, text: GeneratedText) -> _Batch | None:
        """Return a batch whose end a text waits for.

        Those that go on alone do not share the memory that their batch may have lacked.
        """
        if not self._at_once:
            return next(iter(self._running), None)
        alone = (each for each in self._running if each.texts[0].is_alone)
        return next(alone, None) if text.is_alone else None

    def _next_texts(self, text: GeneratedText) -> list[GeneratedText]:
        """Take what can be computed with ``text``, or with the one that waits longest."""
        first = text if self._at_once else self._waiting[0]
        count = 1 if first.is_alone else self._max_batch
        kind = self._kind(first)
        others = (each for each in self._waiting if each is not first)
        alike = [first, *(each for each in others if self._kind(each) == kind)][:count]
        self._waiting = [each for each in self._waiting if each not in alike]
        return alike

    def _kind(self, text: GeneratedText) -> object:
        """Return what the texts of a batch have in common; all beams end at the same length."""
        shapes = tuple((name, tensor.shape) for name, tensor in text.prompt.items())
        return shapes, text.is_alone, text.limit if self._beams > 1 else 0


class GeneratedText:
    """One text: iterate over its tokens as they come.

    tokens:   those that were generated so far.
    is_ended: whether it has no more, or nobody wants it any more.
    is_alone: whether it is generated in a batch of its own, since a batch with it failed.
    """

    def __init__(
        self,
        generator: BatchGenerator,
        prompt: Tensors,
        limit: int,
        make_choice: Callable[[], Choose] | None,
    ) -> None:
        self._generator = generator
        self.prompt = prompt
        self.limit = limit
        self.make_choice = make_choice
        self.tokens: list[int] = []
        self.is_ended = self.is_alone = False
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the new tokens, none after a step that brought none for this text."""
        read = 0
        while read < len(self.tokens) or not self.is_ended:
            if read == len(self.tokens):
                self._generator.step(self)
            new, read = self.tokens[read:], len(self.tokens)
            yield new
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Give the text up, unless it has ended."""
        if not self.is_ended:
            self.is_ended = True
            self._generator.forget(self)


class _Batch:
    """The texts that one call of ``generate`` writes, in a thread of its own."""

    def __init__(
        self,
        network: Network,
        texts: Sequence[GeneratedText],
        is_end: IsEnd,
        options: dict[str, Any],
        beams: int,
    ) -> None:
        self.texts = texts
        self._network = network
        self._is_end = is_end
        self._options = options
        self._beams = beams
        self._steps: SimpleQueue[Step | None] = SimpleQueue()
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
            observer = Observer(self.texts, self._is_end, self._steps.put, self._beams)
            steps: list[Any] = [NumbersOnly()]
            choices = RowChoices(self.texts, observer.done)
            if choices.is_needed:
                steps.append(choices)
            written = self._network.run(
                joined,
                "generate",
                num_return_sequences=1,  # the checkpoint's would give texts of other images
                max_new_tokens=max(text.limit for text in self.texts),
                logits_processor=LogitsProcessorList(steps),
                stopping_criteria=StoppingCriteriaList([observer]),
                **self._options,
            )
            if self._beams > 1:  # only the best beam is the text
                begin = joined["input_ids"].shape[1] if "input_ids" in joined else 1
                rows = [self._up_to_end(row) for row in written[:, begin:].tolist()]
                self._steps.put([(index, row, True) for index, row in enumerate(rows)])
        except BaseException as error:  # noqa: BLE001 - raised where the texts are read
            if not isinstance(error, AbandonedError):
                self._error = error
        finally:
            self._steps.put(None)

    def _up_to_end(self, row: list[int]) -> list[int]:
        """Return a row without the padding after its end."""
        ends = (place for place in range(1, len(row) + 1) if self._is_end(row[:place]))
        return row[: next(ends, len(row))]
