"""``mataserver plugins``: what is installed, and how to install the rest."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import click

from mataserver import config
from mataserver.cli import environment, extensions
from mataserver.cli.environment import UNKNOWN, config_option, table

if TYPE_CHECKING:
    from mataserver.plugins import Plugin, Plugins, ProvidedBackend

HEADER = ("PLUGIN", "VERSION", "BACKEND", "TASK", "SOURCE", "INSTALLED")


@click.command()
@config_option
def plugins(config_file: str | None) -> None:
    """List the plugins and their backends."""
    found = environment.discover(config.load(config_file))
    if not found.found:
        click.echo("No plugins installed.")
    else:
        header, *lines = table([HEADER, *(r for each in found.found for r in _rows(each, found))])
        for line in (header, "-" * len(header), *lines):
            click.echo(line)
    _show_commands()


def _rows(plugin: Plugin, found: Plugins) -> list[tuple[str, ...]]:
    who = (plugin.name, plugin.version or UNKNOWN)
    if plugin.error is not None:
        state = f"BROKEN: {plugin.error_line}" if plugin.error_line else "off: plugins.disabled"
        return [(*who, UNKNOWN, UNKNOWN, UNKNOWN, state)]
    backends = [provided for provided in found.provided if provided.plugin is plugin]
    rows: list[tuple[str, ...]] = [
        (*who, o.backend.name, o.backend.task, o.backend.source, _installation(o)) for o in backends
    ]
    return rows or [(*who, UNKNOWN, UNKNOWN, UNKNOWN, "yes")]


def _installation(provided: ProvidedBackend) -> str:
    backend = provided.backend
    if provided.missing:
        return f"no: {provided.install_command}"
    if backend.system_binary and shutil.which(backend.system_binary) is None:
        return f"yes, but the system binary {backend.system_binary} is not found"
    return "yes"


def _show_commands() -> None:
    for each in extensions.found().values():
        refused = "" if each.rejection is None else f" (refused: {each.rejection})"
        click.echo(f"command {each.name}: {each.owner}{refused}")
