"""Networks in ONNX files, on ONNX Runtime or OpenVINO, without torch: one module per task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_onnx import classify, depth, detect, embed, pose, segment
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
    """Return one backend per task."""
    return [each.BACKEND for each in (detect, classify, segment, depth, embed, pose)]
