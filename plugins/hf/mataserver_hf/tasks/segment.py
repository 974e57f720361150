"""Segmentation of the classes of a checkpoint, and of what a text names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_hf import installation, options, segment, segment_prompted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Backend

settings = options.settings


@hookimpl
def backends() -> Iterable[Backend]:
    """Return the backends of the task ``segment``."""
    return installation.reading(segment.BACKEND, segment_prompted.BACKEND)
