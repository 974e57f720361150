"""Segmentation with a checkpoint's classes, and by prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_hf import options, segment, segment_prompted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Backend

settings = options.settings


@hookimpl
def backends() -> Iterable[Backend]:
    """Return the backends of the task ``segment``."""
    return (segment.BACKEND, segment_prompted.BACKEND)
