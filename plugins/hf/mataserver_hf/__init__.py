"""Hugging Face transformers models: one module a task, gathered here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_hf import (
    classify,
    depth,
    detect,
    embed,
    got_ocr2,
    pose,
    segment,
    segment_prompted,
    trocr,
    vlm,
    zero_shot,
    zero_shot_detect,
)
from mataserver_hf.options import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Backend


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.hf``."""
    return Settings


@hookimpl
def backends() -> Iterable[Backend]:
    """Return the backends of every task."""
    return (
        detect.BACKEND,
        classify.BACKEND,
        zero_shot.BACKEND,
        depth.BACKEND,
        *zero_shot_detect.BACKENDS,
        segment.BACKEND,
        segment_prompted.BACKEND,
        embed.BACKEND,
        pose.BACKEND,
        trocr.BACKEND,
        got_ocr2.BACKEND,
        vlm.BACKEND,
    )
