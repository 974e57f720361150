"""``mataserver pull``: models of the hub, of plugins' sources, pip backends and local files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from mataserver import config, suggestion
from mataserver.cli.environment import config_option, plugins, take_hub_variables, warn
from mataserver.errors import MataError
from mataserver.printing import printable
from mataserver.results import TASKS, is_task
from mataserver.sources.messages import PipOutput, Progress

if TYPE_CHECKING:
    from mataserver.library.catalog import Catalog
    from mataserver.library.registrar import Registration
    from mataserver.plugins import Plugins
    from mataserver.sources.messages import Step


_UNKNOWN_BYTES = 1 << 60
"""The length of a bar whose total is unknown: it stays at 0 %, with what has arrived."""
# pip's lines that mark progress; the others are noise while it works.
_PIP_STEPS = ("Collecting ", "Downloading ", "Building wheel", "Installing collected", "Would ")


class DownloadBar:
    """Displays a pull's progress on a terminal: a download as a bar, pip by its own lines.

    Displays nothing unless stderr is a terminal.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._bar: Any = None
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def show(self, step: Step) -> None:
        """Display the current state."""
        if not sys.stderr.isatty():
            return
        if isinstance(step, Progress):
            self._draw(step)
        elif isinstance(step, PipOutput) and step.text.lstrip().startswith(_PIP_STEPS):
            click.echo(f"  {printable(step.text.strip())}", err=True)

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = click.progressbar(
                length=_UNKNOWN_BYTES,
                label=self._model,
                item_show_func=_megabytes,
                file=sys.stderr,
            )
            self._bar.render_progress()
        # A source may tell the total later, or not at all.
        self._bar.length = progress.total_bytes or _UNKNOWN_BYTES
        self._bar.update(progress.done_bytes - self._done, progress)
        self._done = progress.done_bytes


def _megabytes(progress: Progress | None) -> str | None:
    if progress is None:
        return None
    total = f"/{progress.total_bytes / 1e6:.1f}" if progress.total_bytes else ""
    return f"{progress.done_bytes / 1e6:.1f}{total} MB"


class Task(click.Choice[str]):
    """A task; for an invalid one the error suggests a similar name."""

    name = "task"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the task; a plugin's own task is validated later, once plugins are known."""
        if "." in str(value) and is_task(str(value)):
            return str(value)
        return super().convert(value, param, ctx)

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Return the error message for an invalid task."""
        said = super().get_invalid_choice_message(value, ctx)
        return said.rstrip(".") + (suggestion.similar_task(str(value), TASKS) or ".")


@click.command()
@click.argument("model")
@click.option(
    "--task",
    required=True,
    type=Task(TASKS),
    help="The inference task, also one that a plugin brings (plugin.name).",
)
@click.option("--name", help="For a local path: the name to register it under.")
@config_option
def pull(model: str, task: str, name: str | None, config_file: str | None) -> None:
    """Download a model from HuggingFace and register it.

    MODEL is a HuggingFace repo ID (org/name), the name of a pip backend (easyocr), a model of a
    plugin's source (source:reference), or a local directory or file: /path, ./path, ~/path.
    """
    from mataserver.library.catalog import Catalog
    from mataserver.library.registry import Registry

    local = _is_path(model)
    if name is not None and not local:
        raise click.UsageError("--name is for local paths; a pulled model keeps its own name")
    settings = config.load(config_file)
    take_hub_variables()
    found = plugins(settings)
    catalog = Catalog(settings, Registry(settings.registry_path), found)
    if local:
        pulled = _add(catalog, model, task, name)
        click.echo(f"Registered {pulled.name} ({task})")
        return
    _announce_pip(found, model)
    _download(catalog, model, task)
    click.echo(f"Pulled {model} ({task})")


def _is_path(model: str) -> bool:
    """Whether ``model`` is a path: written as one, or the name of a file in this directory."""
    return (
        model.startswith(("/", "./", "../", "~")) or model in {".", ".."} or Path(model).is_file()
    )


def _add(catalog: Catalog, path: str, task: str, name: str | None) -> Registration:
    """Register a local path; errors name the path as typed."""
    try:
        pulled = catalog.add_local(Path(path), task, name)
    except MataError as error:
        raise MataError(f"{path}: {error.detail}", hint=error.hint) from None
    _warn(pulled)
    return pulled


def _announce_pip(found: Plugins, model: str) -> None:
    """Announce that pip is about to run, which takes minutes."""
    provided = found.pip_backend(model)
    if provided is not None and (provided.missing or provided.unsuitable) and sys.stderr.isatty():
        click.echo(f"installing {', '.join(provided.backend.packages)} with pip", err=True)


def _download(catalog: Catalog, model: str, task: str) -> None:
    import asyncio

    with DownloadBar(model) as bar:
        pulled = asyncio.run(catalog.pull(model, task, bar.show))
    _warn(pulled)


def _warn(pulled: Registration) -> None:
    for warning in pulled.warnings:
        warn(warning)
