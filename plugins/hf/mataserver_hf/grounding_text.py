"""The one text that Grounding DINO reads all prompts as, and which of its tokens are whose."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver_hf.prompts import Prompts

NOBODY = -1
"""Whose a token is that belongs to no prompt."""


def caption(prompts: Prompts) -> tuple[str, list[tuple[int, int]]]:
    """Return the text that holds every prompt, and where in it each begins and ends.

    In lower case and with a dot after each, as the models were trained.
    """
    text, spans = "", []
    for prompt in prompts:
        words = prompt.lower().strip().rstrip(". ")
        spans.append((len(text), len(text) + len(words)))
        text += f"{words}. "
    return text.rstrip(), spans


def owner_of(spans: Sequence[tuple[int, int]], start: int, end: int) -> int:
    """Return which of ``spans`` holds the token from ``start`` to ``end``."""
    inside = (index for index, (first, last) in enumerate(spans) if first <= start < last)
    return next(inside, NOBODY) if end > start else NOBODY
