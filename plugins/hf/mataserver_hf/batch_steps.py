"""What a batch of texts does at each step of ``generate``: choose tokens, and hand them out.

Only ``load`` functions import this module: it imports torch and transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import LogitsProcessor, StoppingCriteria

from mataserver import MataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    IsEnd = Callable[[list[int]], bool]
    Choose = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """Takes the tokens and logits of one text, ``[1, length]`` and ``[1, tokens]``; returns the
    latter with the one to take as the largest."""
    Step = list[tuple[int, list[int], bool]]
    """The place of each text that goes on in its batch, its new tokens, and whether it ends."""


class Text(Protocol):
    """What a step needs of a ``GeneratedText``."""

    limit: int
    tokens: list[int]
    is_ended: bool
    make_choice: Callable[[], Choose] | None


class AbandonedError(Exception):
    """Nobody wants any text of a batch."""


class NumbersOnly(LogitsProcessor):
    """Lets no token be chosen among NaN: it would be the first, or any, and look like an answer."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return the scores. Raises ``MataError`` where some are no numbers."""
        if bool(scores.isnan().any()):
            raise MataError(
                "the network computed NaN or infinite values; dtype float32 avoids overflows"
            )
        return scores


class RowChoices(LogitsProcessor):
    """Chooses the next token of each text by its own rule, and repeats what it began with.

    A text begins with the tokens that a failed batch has given out already: the likeliest ones may
    be others in a batch of another size, and at random they are. Its rule is asked all the same, so
    that a seed draws the tokens after them as it would have.
    """

    def __init__(self, texts: Sequence[Text], done: Sequence[bool]) -> None:
        """Begin; ``done`` says at each step which texts have ended, of which nothing is asked."""
        self._rules = [text.make_choice() if text.make_choice else None for text in texts]
        self._given = [list(text.tokens) for text in texts]
        self._done = done
        self._step = 0

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to choose or to repeat."""
        return any(rule is not None for rule in self._rules) or any(self._given)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Change the scores of the texts that go on."""
        for row, (rule, given) in enumerate(zip(self._rules, self._given, strict=True)):
            if self._done[row]:
                continue
            if rule is not None:
                scores[row] = rule(input_ids[row, None], scores[row, None])[0]
            if self._step < len(given):
                scores[row] = -torch.inf
                scores[row, given[self._step]] = 0
        self._step += 1
        return scores


class Observer(StoppingCriteria):
    """Passes on the new tokens of each step, and says which texts have ended.

    done: which ones, by their place in the batch.
    """

    def __init__(
        self,
        texts: Sequence[Text],
        is_end: IsEnd,
        put: Callable[[Step], None],
        beams: int,
    ) -> None:
        """Hand out with ``put``; of a search over ``beams`` the steps are empty."""
        self._texts = texts
        self._is_end = is_end
        self._put = put
        self._beams = beams
        self._given = [len(text.tokens) for text in texts]
        self._written: list[list[int]] = [[] for _ in texts]
        self.done = [False] * len(texts)

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Hand out a step. Raises ``AbandonedError`` once nobody wants any text."""
        if all(text.is_ended for text in self._texts):
            raise AbandonedError
        if self._beams > 1:
            self._put([])
            return torch.full((input_ids.shape[0],), fill_value=False, device=input_ids.device)
        new = []
        for index, token in enumerate(input_ids[:, -1].tolist()):
            if not self.done[index]:
                last = self._add(index, token)
                if len(self._written[index]) > self._given[index]:
                    new.append((index, [token], last))
        self._put(new)
        return torch.tensor(self.done, device=input_ids.device)

    def _add(self, index: int, token: int) -> bool:
        """Add a token to a text; return whether it is the last one."""
        written, text = self._written[index], self._texts[index]
        written.append(token)
        last = len(written) >= text.limit or self._is_end(written)
        self.done[index] = last or text.is_ended
        return last
