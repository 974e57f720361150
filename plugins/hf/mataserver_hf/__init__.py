"""Hugging Face transformers models: one module a task, gathered here."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_hf import (
    classify,
    depth,
    detect,
    embed,
    got_ocr2,
    installation,
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
    from collections.abc import Callable, Iterable

    from mataserver import Backend, ModelFiles


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.hf``."""
    return Settings


@hookimpl
def backends() -> Iterable[Backend]:
    """Return the backends of every task."""
    every = (
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
    return tuple(replace(each, accepts=partial(_accepts, each.accepts)) for each in every)


def _accepts(of_family: Callable[[ModelFiles], bool] | None, files: ModelFiles) -> bool:
    """Whether a checkpoint is of a backend's family and holds weights that transformers reads."""
    return of_family is not None and of_family(files) and installation.has_weights(files)
