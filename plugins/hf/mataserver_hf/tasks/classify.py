"""Classifiers with a head of their own, and of classes that are named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_hf import classify, installation, options, zero_shot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Backend

settings = options.settings


@hookimpl
def backends() -> Iterable[Backend]:
    """Return the backends of the task ``classify``."""
    return installation.reading(classify.BACKEND, zero_shot.BACKEND)
