"""Classifiers with a trained head, and zero-shot classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_hf import classify, options, zero_shot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Backend

settings = options.settings


@hookimpl
def backends() -> Iterable[Backend]:
    """Return the backends of the task ``classify``."""
    return (classify.BACKEND, zero_shot.BACKEND)
