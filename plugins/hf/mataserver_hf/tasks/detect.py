"""Detectors with trained classes, and zero-shot detectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_hf import detect, options, zero_shot_detect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Backend

settings = options.settings


@hookimpl
def backends() -> Iterable[Backend]:
    """Return the backends of the task ``detect``."""
    return (detect.BACKEND, *zero_shot_detect.BACKENDS)
