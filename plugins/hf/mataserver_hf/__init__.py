"""Hugging Face transformers models: one module a task, gathered here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_hf import classify, depth, detect, zero_shot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Backend


@hookimpl
def backends() -> Iterable[Backend]:
    """Return the backends of every task."""
    return (detect.BACKEND, classify.BACKEND, zero_shot.BACKEND, depth.BACKEND)
