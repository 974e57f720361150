"""Hugging Face transformers models: one module and one plugin (in ``tasks``) per task.

Earlier versions registered this package itself as one plugin, ``hf``, that served every task;
installations of those versions still load it by that name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Backend
    from mataserver_hf.options import Settings


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.hf``."""
    from mataserver_hf import options

    return options.Settings


@hookimpl
def backends() -> Iterable[Backend]:
    """Return the backends of every task."""
    from mataserver_hf.tasks import classify, depth, detect, embed, hf_ocr, pose, segment, vlm

    every = (detect, classify, segment, depth, pose, vlm, embed, hf_ocr)
    return tuple(backend for task in every for backend in task.backends())
