"""The command ``mataserver export``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import click

from mataserver import BadRequest, MataError
from mataserver_onnx import installation
from mataserver_onnx.export import families

_TASKS = ("classify", "depth", "detect", "embed", "segment")


@click.command()
@click.argument("model")
@click.option("--to", "target", required=True, type=click.Choice(["onnx", "openvino"]))
@click.option("--int8", is_flag=True, help="Weights in 8 bits: smaller and faster, less exact.")
@click.option("--task", type=click.Choice(_TASKS), help="Default: what MODEL was trained for.")
@click.option("--output", type=click.Path(path_type=Path), help="Directory to write; new.")
@click.option("--name", help="Name to register [default: MODEL-onnx, MODEL-onnx-int8, ...].")
@click.option(
    "--photos",
    "place",
    type=click.Path(exists=True, path_type=Path),
    help="A picture, or a folder of them, like those that the model is for.",
)
@click.option("--config", "config_file", metavar="FILE", help="Configuration file of the server.")
def export(
    *,
    model: str,
    target: str,
    task: str | None,
    output: Path | None,
    name: str | None,
    place: Path | None,
    config_file: str | None,
    int8: bool,
) -> None:
    """Export a pulled model to ONNX or OpenVINO and register the export.

    MODEL is a HuggingFace repo ID that is here, or a local directory of that layout. What the
    export answers to pictures (--photos, or one that comes along) is compared with what torch
    answers; unless they agree nothing is registered. OpenVINO in int8 is calibrated on --photos.
    """
    installation.check_exports()
    if int8 and target == "openvino" and place is None:
        raise BadRequest("int8 for OpenVINO is calibrated on pictures: give some with --photos")
    source = _source(model)
    mark = target + ("-int8" if int8 else "")
    directory = (output or Path(f"{Path(model).name}-{mark}")).expanduser().resolve()
    if directory.exists():
        raise BadRequest(f"{directory} exists already: choose another with --output")
    family = families.find(families.read_config(source), task)
    _make(source, directory, family, mark, place)
    _register(directory, family.task, name or f"{_plain(model)}-{mark}", config_file)


def _source(model: str) -> Path:
    """Return the checkpoint's directory. Raises ``BadRequest`` when it is not here."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise BadRequest(f"{model} is not here: mataserver pull {model} --task TASK") from error


def _make(
    source: Path, directory: Path, family: families.Family, mark: str, place: Path | None
) -> None:
    """Write the export into a new directory, once it was compared with torch.

    Raises ``MataError`` when it does not answer as torch does; then nothing is left of it.
    """
    from mataserver_onnx.export import photos, trial

    pictures = photos.read(place)
    target, _, precision = mark.partition("-")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".export-") as workshop:
        made = Path(workshop, "model")
        made.mkdir()
        click.echo(f"exporting with {trial.versions()}")
        figures = trial.make(source, made, family, target, pictures, int8=bool(precision))
        click.echo(f"compared with torch on {len(pictures)} pictures; the largest differences:")
        for figure in figures:
            click.echo(f"  {figure}")
        if not all(figure.passed for figure in figures):
            raise MataError("the export does not answer as torch does: nothing was registered")
        (made / "comparison.json").write_text(trial.record(figures, mark))
        made.rename(directory)


def _plain(model: str) -> str:
    """Return a name to register under: a repository's id, or a directory's own name."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def _register(directory: Path, task: str, name: str, config_file: str | None) -> None:
    """Register through ``mataserver pull``, as a person would."""
    command = [sys.executable, "-m", "mataserver", "pull", str(directory), "--task", task]
    command += ["--name", name, *(["--config", config_file] if config_file else [])]
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)  # noqa: S603 - ours
    if done.returncode:
        raise MataError(f"the export lies in {directory}, but could not be registered")
    click.echo(f"Exported to {directory}, registered as {name} ({task})")
