"""The command ``mataserver export``."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mataserver import BadRequest, MataError, read_configuration
from mataserver_onnx import installation
from mataserver_onnx.export import checkpoints, families
from mataserver_onnx.export.workshop import Workshop
from mataserver_onnx.options import Settings

if TYPE_CHECKING:
    from mataserver import Configuration
    from mataserver_onnx.export.checkpoints import Found
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
    """Export a pulled model to ONNX or OpenVINO and register the export.

    MODEL is a registered model, a HuggingFace repo ID that is here, or a local directory of that
    layout. What the export answers to pictures (--photos, or one that comes along) is compared with
    what torch answers; unless they agree nothing is registered. OpenVINO in int8 is calibrated on
    --photos. With --register the export is kept in the data directory, and MODEL is served from it
    under its own name; with --name too it is registered beside MODEL.
    """
    installation.check_exports()
    if int8 and target == "openvino" and place is None:
        raise BadRequest("int8 for OpenVINO is calibrated on pictures: give some with --photos")
    if register and output is not None:
        raise click.UsageError("--register keeps the export in the data directory: no --output")
    configured = read_configuration(config_file)
    found = checkpoints.find(model, configured)
    mark = target + ("-int8" if int8 else "")
    family = families.find(families.read_config(found.path), task or found.task)
    checkpoints.check(found)
    order = _Order(found, family, mark, place)
    if register:
        _keep(order, name, configured)
        return
    directory = (output or Path(f"{Path(model).name}-{mark}")).expanduser().resolve()
    if directory.exists():
        raise BadRequest(f"{directory} exists already: choose another with --output")
    _write(order, directory)
    _register(directory, family.task, name or f"{found.name}-{mark}", configured)


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be exported, to what, and the pictures that it is compared on."""

    found: Found
    family: families.Family
    mark: str
    pictures: Path | None
    runtime: Runtime = "by-file"

    def fill(self, made: Path) -> None:
        """Write the export into an empty directory.

        Raises ``MataError`` when it does not answer as torch does.
        """
        from mataserver_onnx.export import photos, trial

        pictures = photos.read(self.pictures)
        target, _, precision = self.mark.partition("-")
        click.echo(f"exporting with {trial.versions()}")
        figures = trial.make(
            *(self.found.path, made, self.family, target, pictures),
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
        (made / "comparison.json").write_text(trial.record(figures, self.mark))


def _write(order: _Order, directory: Path) -> None:
    """Write the export into a new directory; nothing is left of one that fails."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".export-") as workshop:
        made = Path(workshop, "model")
        made.mkdir()
        order.fill(made)
        made.rename(directory)


def _register(directory: Path, task: str, name: str, configured: Configuration) -> None:
    """Register a directory of the user's."""
    try:
        configured.add_model(directory, task, name)
    except MataError as error:
        raise MataError(
            f"the export lies in {directory}, but could not be registered: {error.detail}"
        ) from None
    click.echo(f"Exported to {directory}, registered as {name} ({task})")


def _keep(order: _Order, name: str | None, configured: Configuration) -> None:
    """Write the export into the data directory and serve the model from it, or another name."""
    found, task = order.found, order.family.task
    options = configured.plugin("onnx", Settings)
    runtime = options.model(name or found.name).runtime or options.runtime
    order = _Order(found, order.family, order.mark, order.pictures, runtime)
    workshop = Workshop(configured.shared_dir / "converted", lambda: _used(configured))
    place = workshop.place(found.name, found.path, task, order.mark, installation.version())
    with workshop.bench(place) as part:
        if part is not None:
            order.fill(part)
            workshop.finish(part)
        if name is None:
            configured.convert_model(found.name, task, place, found.unregistered)
        else:
            configured.add_model(place, task, name)
    click.echo(f"Exported to {place}, which serves {name or found.name} ({task}) from now on")


def _used(configured: Configuration) -> list[Path]:
    """Return the directories and files that registered models are served from."""
    return [
        path
        for each in configured.models().values()
        if (path := each.converted or each.path) is not None
    ]
