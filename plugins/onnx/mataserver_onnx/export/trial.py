"""Makes an export and compares it with torch on the same pictures. Imports torch."""

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
    from mataserver_onnx.export.comparison import Difference
    from mataserver_onnx.export.families import Family
    from mataserver_onnx.export.photos import Pixels
    from mataserver_onnx.options import Runtime

BACKENDS: dict[str, tuple[Backend, Params]] = {
    "detect": (detect.BACKEND, detect.DetectParams(confidence=0.0)),
    "classify": (classify.BACKEND, classify.ClassifyParams(top_k=1_000_000)),
    "segment": (segment.BACKEND, segment.SegmentParams(confidence=0.0)),
    "depth": (depth.BACKEND, depth.DepthParams(normalize=False)),
    "embed": (embed.BACKEND, embed.BACKEND.params()),
}
"""This plugin's backend of each task, with parameters that leave nothing out of its results."""


def export_and_compare(
    source: Path,
    directory: Path,
    family: Family,
    target: str,
    photos: Sequence[Pixels],
    *,
    int8: bool,
    runtime: Runtime = "by-file",
) -> list[Difference]:
    """Write the export of a checkpoint into a directory; return its differences to torch.

    ``runtime`` runs the export for the comparison, in float32. Raises ``MataError`` for a
    checkpoint that cannot be exported.
    """
    checkpoint = tracing.Checkpoint(source, family)
    checkpoint.write(directory, target, photos, int8=int8)
    backend, params = BACKENDS[family.task]
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
    """Return the versions of the exporting packages."""
    return ", ".join(f"{name} {version(name)}" for name in ("transformers", "torch"))


def comparison_json(figures: Sequence[Difference], variant: str) -> str:
    """Return the JSON file that is stored beside an export: the differences to torch."""
    differences = {figure.name: figure.value for figure in figures}
    kept = {"export": variant, "made with": versions(), "differences": differences}
    return json.dumps(kept, indent=2) + "\n"
