"""Finds the checkpoint to export: a directory, a registered model, or a cached hub repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mataserver import BadRequest, check_checkpoint, check_model_files

if TYPE_CHECKING:
    from mataserver import Configuration

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True, slots=True)
class SourceCheckpoint:
    """A checkpoint of transformers.

    name:         the name that it is, or would be, registered under.
    path:         its directory.
    task:         the task that it is registered for, None where it is not.
    unregistered: its directory again if it was given as one: it may not be registered yet.
    """

    name: str
    path: Path
    task: str | None = None
    unregistered: Path | None = None


def find(model: str, configured: Configuration) -> SourceCheckpoint:
    """Return the checkpoint named ``model``. Raises ``BadRequest`` when it is not here."""
    place = Path(model).expanduser()
    if place.is_dir():
        place = place.resolve()
        return SourceCheckpoint(place.name, place, unregistered=place)
    known = configured.models().get(model)
    if known is None:
        return SourceCheckpoint(model, _cached(model))
    if known.path is None:
        raise BadRequest(f"{model} has no files of its own that could be exported")
    return SourceCheckpoint(model, known.path, known.task)


def check(found: SourceCheckpoint) -> None:
    """Raise ``MataError`` for one without torch weights, or that refers to what lies elsewhere."""
    check_model_files(found.path)
    check_checkpoint(found.path, found.name)
    if not any(next(found.path.glob(each), None) for each in _WEIGHTS):
        raise BadRequest(f"{found.name} holds no weights of torch, so there is nothing to export")


def _cached(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise BadRequest(f"{model} is not here: mataserver pull {model} --task TASK") from error
