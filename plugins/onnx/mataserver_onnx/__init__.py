"""Networks in ONNX files, on ONNX Runtime or OpenVINO, without torch: one module a task."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_onnx import classify, conversion, depth, detect, embed, pose, segment
from mataserver_onnx.options import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Backend


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.onnx``."""
    return Settings


@hookimpl
def backends() -> Iterable[Backend]:
    """Return one backend a task."""
    exported = (detect, classify, segment, depth, embed)
    for each in exported:
        yield replace(each.BACKEND, conversion=conversion.of(each.BACKEND.task))
    yield pose.BACKEND
