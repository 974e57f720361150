"""Exports checkpoints of transformers when they are pulled, where ``runtime`` is "auto"."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mataserver import Conversion, MataError
from mataserver_onnx import installation
from mataserver_onnx.export import families

if TYPE_CHECKING:
    from pathlib import Path

    from mataserver import ModelFiles, ModelSpec
    from mataserver_onnx.options import Settings

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def of(task: str) -> Conversion:
    """Return how checkpoints are converted for a task."""
    return Conversion(wanted=partial(_wanted, task), make=make)


def _wanted(task: str, files: ModelFiles, _settings: Settings) -> bool:
    """Whether a directory holds a checkpoint whose family has been compared with torch.

    Raises the ``MataError`` that says why it cannot be exported.
    """
    path = files.path
    if path is None or not any(next(path.glob(each), None) for each in _WEIGHTS):
        return False
    families.find(files.config, task)
    installation.check_exports()
    return True


def make(spec: ModelSpec, directory: Path, settings: Settings) -> None:
    """Export a checkpoint into a directory, for the runtime that the plugin's settings name.

    Raises ``MataError`` for one that cannot be exported, and for an export that does not answer
    pictures as torch does.
    """
    from mataserver_onnx.export import photos, trial

    if spec.path is None:
        raise MataError(f"{spec.name} has no directory to export from")
    family = families.find(families.read_config(spec.path), spec.task)
    options = settings.model(spec.name)
    runtime = options.runtime or settings.runtime
    pictures = photos.read(None)
    figures = trial.make(
        spec.path, directory, family, "onnx", pictures, int8=False, runtime=runtime
    )
    failed = [str(figure) for figure in figures if not figure.passed]
    if failed:
        raise MataError(f"its export does not answer as torch does: {'; '.join(failed)}")
    (directory / "comparison.json").write_text(trial.record(figures, "onnx"))
