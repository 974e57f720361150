"""The caption into which Grounding DINO's prompts are joined, and which tokens belong to which."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver_hf.prompts import Prompts

NO_PROMPT = -1
"""The prompt index of a token that belongs to no prompt."""


def caption(prompts: Prompts) -> tuple[str, list[tuple[int, int]]]:
    """Return the text that holds every prompt, and each prompt's start and end in it.

    In lower case and with a dot after each, as the models were trained.
    """
    text, spans = "", []
    for prompt in prompts:
        words = prompt.lower().strip().rstrip(". ")
        spans.append((len(text), len(text) + len(words)))
        text += f"{words}. "
    return text.rstrip(), spans


def prompt_at(spans: Sequence[tuple[int, int]], start: int, end: int) -> int:
    """Return which of ``spans`` holds the token from ``start`` to ``end``, or ``NO_PROMPT``."""
    inside = (index for index, (first, last) in enumerate(spans) if first <= start < last)
    return next(inside, NO_PROMPT) if end > start else NO_PROMPT
