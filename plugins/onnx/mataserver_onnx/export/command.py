"""The command ``mataserver export``."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mataserver import BadRequest, MataError, read_configuration
from mataserver_onnx import installation
from mataserver_onnx.export import checkpoints, families
from mataserver_onnx.export.export_store import ExportStore
from mataserver_onnx.options import Settings

if TYPE_CHECKING:
    from mataserver import Configuration
    from mataserver_onnx.export.checkpoints import SourceCheckpoint
    from mataserver_onnx.options import Runtime

_TASKS = ("classify", "depth", "detect", "embed", "segment")


@click.command()
@click.argument("model")
@click.option("--to", "target", default="onnx", type=click.Choice(["onnx", "openvino"]))
@click.option("--int8", is_flag=True, help="Weights in 8 bits: smaller and faster, less exact.")
@click.option("--task", type=click.Choice(_TASKS), help="Default: what MODEL was trained for.")
@click.option("--register", is_flag=True, help="Serve MODEL from its export from now on.")
@click.option("--output", type=click.Path(path_type=Path), help="Directory to write; new.")
@click.option("--name", help="Name to register [default: MODEL-onnx, ...; --register: MODEL].")
@click.option(
    "--photos",
    "place",
    type=click.Path(exists=True, path_type=Path),
    help="A picture, or a folder of them, like those that the model is for.",
)
@click.option("--config", "config_file", metavar="FILE", help="Configuration file of the server.")
def export(  # noqa: PLR0913 - each is an option of the command
    *,
    model: str,
    target: str,
    task: str | None,
    register: bool,
    output: Path | None,
    name: str | None,
    place: Path | None,
    config_file: str | None,
    int8: bool,
) -> None:
    """Export a pulled model to ONNX or OpenVINO.

    MODEL is a registered model, a HuggingFace repo ID that is here, or a local directory of that
    layout. What the export answers to pictures (--photos, or one that comes along) is compared with
    what torch answers; unless they agree nothing is registered. OpenVINO in int8 is calibrated on
    --photos. With --register the export is kept in the data directory, and MODEL is served from it
    under its own name; with --name too it is registered beside MODEL.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is imported: nothing is pulled
    installation.check_exports()
    if int8 and target == "openvino" and place is None:
        raise BadRequest("int8 for OpenVINO is calibrated on pictures: give some with --photos")
    if register and output is not None:
        raise click.UsageError("--register keeps the export in the data directory: no --output")
    configured = read_configuration(config_file)
    source = checkpoints.find(model, configured)
    variant = target + ("-int8" if int8 else "")
    family = families.find(families.read_config(source.path), task or source.task)
    checkpoints.check(source)
    job = _ExportJob(source, family, variant, place)
    if register:
        _export_and_serve(job, name, configured)
        return
    directory = (output or Path(f"{Path(model).name}-{variant}")).expanduser().resolve()
    if directory.exists():
        raise BadRequest(f"{directory} exists already: choose another with --output")
    _export_to(job, directory)
    _register(directory, family.task, name or f"{source.name}-{variant}", configured)


@dataclass(frozen=True, slots=True)
class _ExportJob:
    """A checkpoint to export, the target variant, and the pictures for the comparison."""

    source: SourceCheckpoint
    family: families.Family
    variant: str
    pictures: Path | None
    runtime: Runtime = "by-file"

    def export_into(self, made: Path) -> None:
        """Write the export into an empty directory.

        Raises ``MataError`` when its outputs differ from torch's.
        """
        from mataserver_onnx.export import photos, trial

        pictures = photos.read(self.pictures)
        target, _, precision = self.variant.partition("-")
        click.echo(f"exporting with {trial.versions()}")
        figures = trial.export_and_compare(
            *(self.source.path, made, self.family, target, pictures),
            int8=bool(precision),
            runtime=self.runtime if target == "onnx" else "by-file",
        )
        click.echo(f"compared with torch on {len(pictures)} pictures; the largest differences:")
        for figure in figures:
            click.echo(f"  {figure}")
        failed = "; ".join(str(figure) for figure in figures if not figure.passed)
        if failed:
            raise MataError(
                f"the export does not answer as torch does: nothing was registered ({failed})"
            )
        (made / "comparison.json").write_text(trial.comparison_json(figures, self.variant))


def _export_to(job: _ExportJob, directory: Path) -> None:
    """Write the export into a new directory; one that fails leaves nothing behind."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".export-") as temporary:
        made = Path(temporary, "model")
        made.mkdir()
        job.export_into(made)
        made.rename(directory)


def _register(directory: Path, task: str, name: str, configured: Configuration) -> None:
    """Register an export in a directory that the user chose."""
    try:
        configured.add_model(directory, task, name)
    except MataError as error:
        raise MataError(
            f"the export lies in {directory}, but could not be registered: {error.detail}"
        ) from None
    click.echo(f"Exported to {directory}, registered as {name} ({task})")


def _export_and_serve(job: _ExportJob, name: str | None, configured: Configuration) -> None:
    """Write the export into the data directory and serve the model, or another name, from it."""
    source, task = job.source, job.family.task
    options = configured.plugin("onnx", Settings)
    runtime = options.model(name or source.name).runtime or options.runtime
    job = _ExportJob(source, job.family, job.variant, job.pictures, runtime)
    store = ExportStore(configured.shared_dir / "converted", lambda: _served_paths(configured))
    place = store.path_for(source.name, source.path, task, job.variant, installation.version())
    with store.claim(place) as part:
        if part is not None:
            job.export_into(part)
            store.publish(part)
        if name is None:
            configured.convert_model(source.name, task, place, source.unregistered)
        else:
            configured.add_model(place, task, name)
    click.echo(f"Exported to {place}, which serves {name or source.name} ({task}) from now on")


def _served_paths(configured: Configuration) -> list[Path]:
    """Return the directories and files that registered models are served from."""
    return [
        path
        for each in configured.models().values()
        if (path := each.converted or each.path) is not None
    ]
