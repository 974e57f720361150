"""Makes an export and asks it and torch about the same pictures. Imports torch."""

from __future__ import annotations

import json
import logging
from importlib.metadata import version
from typing import TYPE_CHECKING

from mataserver import LoadContext, ModelSpec
from mataserver_onnx import classify, depth, detect, embed, segment
from mataserver_onnx.export import comparison, tracing
from mataserver_onnx.options import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mataserver import Backend, Params
    from mataserver_onnx.export.comparison import Figure
    from mataserver_onnx.export.families import Family
    from mataserver_onnx.export.photos import Pixels
    from mataserver_onnx.options import Runtime

ASKED: dict[str, tuple[Backend, Params]] = {
    "detect": (detect.BACKEND, detect.DetectParams(confidence=0.0)),
    "classify": (classify.BACKEND, classify.ClassifyParams(top_k=1_000_000)),
    "segment": (segment.BACKEND, segment.SegmentParams(confidence=0.0)),
    "depth": (depth.BACKEND, depth.DepthParams(normalize=False)),
    "embed": (embed.BACKEND, embed.BACKEND.params()),
}
"""By task this plugin's own backend, and parameters that leave nothing of its answers out."""


def make(
    source: Path,
    directory: Path,
    family: Family,
    target: str,
    photos: Sequence[Pixels],
    *,
    int8: bool,
    runtime: Runtime = "by-file",
) -> list[Figure]:
    """Write the export of a checkpoint into a directory; return how far it is from torch.

    ``runtime`` is what answers the pictures, in float32.
    Raises ``MataError`` for a checkpoint that cannot be exported.
    """
    checkpoint = tracing.Checkpoint(source, family)
    checkpoint.write(directory, target, photos, int8=int8)
    backend, params = ASKED[family.task]
    context = LoadContext(
        settings=Settings(runtime=runtime),
        device="cpu",
        dtype="float32",
        threads=0,
        data_dir=directory.parent,
        log=logging.getLogger("mataserver.onnx"),
    )
    served = backend.load(ModelSpec("the export", family.task, "local", directory), context)
    return comparison.compare(checkpoint, served, params, photos, int8=int8)


def versions() -> str:
    """Return what made an export."""
    return ", ".join(f"{name} {version(name)}" for name in ("transformers", "torch"))


def record(figures: Sequence[Figure], mark: str) -> str:
    """Return what is kept beside an export: the differences that were seen."""
    differences = {figure.name: figure.value for figure in figures}
    kept = {"export": mark, "made with": versions(), "differences": differences}
    return json.dumps(kept, indent=2) + "\n"
