"""Checks a request's prompts and tokenizes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver import InvalidParams

if TYPE_CHECKING:
    from collections.abc import Sequence

    Prompts = tuple[str, ...]


def require_prompts(prompts: Prompts) -> Prompts:
    """Return ``prompts``. Raises ``InvalidParams`` when there are none."""
    if not prompts:
        raise InvalidParams("params.prompts: this model needs at least one prompt")
    return prompts


def tokenize(tokenizer: Any, prompts: Sequence[str], longest: int) -> dict[str, Any]:
    """Return ``input_ids`` and ``attention_mask`` ``[len(prompts), longest]``, padded as for CLIP.

    Spaces around a prompt are left out. Raises ``InvalidParams`` for one that would have to be
    truncated.
    """
    texts = [prompt.strip() for prompt in prompts]
    if max(map(len, tokenizer(texts)["input_ids"])) > longest:
        raise InvalidParams(
            f"params.prompts: a prompt is longer than the {longest} tokens that this model reads"
        )
    filled = tokenizer(texts, padding="max_length", max_length=longest, return_tensors="pt")
    return {name: filled[name] for name in ("input_ids", "attention_mask")}
