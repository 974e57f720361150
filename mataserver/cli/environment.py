"""What a command finds on this machine: the settings, the registry and the plugins."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from mataserver import config
from mataserver.errors import MataError
from mataserver.library.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    from mataserver.config import Settings
    from mataserver.plugins import Plugins

F = TypeVar("F", bound="Callable[..., Any]")

UNKNOWN = "—"
"""What is printed for a value that there is none of."""


def config_option(function: F) -> F:
    """Add ``--config FILE``, handed over as ``config_file``; errors in that file name it."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, config_file: str | None, **options: Any) -> Any:
        try:
            return function(*arguments, config_file=config_file, **options)
        except MataError as error:
            raise naming(config_file, error) from None

    option = click.option(
        "--config",
        "config_file",
        metavar="FILE",
        help="Configuration file [default: MATA_SERVER_CONFIG, else ./mataserver.yaml].",
    )
    return cast("F", option(wrapped))


def naming(file: str | None, error: MataError) -> MataError:
    """Return an error in the configuration with its file, unless it is named already."""
    place, _, problem = error.detail.partition(": ")
    path = configuration(file)
    if place not in {"configuration", "models"} or path is None or path.name in problem:
        return error
    what = problem if place == "configuration" else error.detail
    return config.ConfigError(f"configuration ({path}): {what}", hint=error.hint)


def configuration(file: str | None) -> Path | None:
    """Return the configuration file as it is named; None where there is none."""
    folder = Path.cwd()
    try:
        found = config.find(file, config.variables(folder), folder)
    except config.ConfigError:
        return None
    return found.relative_to(folder) if found and found.is_relative_to(folder) else found


def warn(text: str) -> None:
    """Write one line of warning to stderr."""
    click.echo(f"warning: {' '.join(text.split())}", err=True)


def take_hub_variables() -> None:
    """Take ``HF_*`` variables (``HF_TOKEN`` for gated models) from ``.env`` into the environment.

    The hub's library reads them there; one that is set already stays as it is.
    """
    for name, value in config.dotenv(Path.cwd()).items():
        if name.startswith("HF_"):
            os.environ.setdefault(name, value)


def registry(settings: Settings) -> Registry:
    """Return the registry in the data directory, or in the shared one."""
    return Registry(settings.registry_path)


def plugins(settings: Settings) -> Plugins:
    """Import the plugins; a broken one is a warning. Raises ``ConfigError``.

    ``plugins.strict`` is about starting a server, so it does not hold here.
    """
    found = discover(settings)
    for plugin in found.found:
        if plugin.fault is not None:
            warn(f"the plugin {plugin.name} is not in use: {plugin.fault}")
    return found


def discover(settings: Settings, problems: list[config.ConfigError] | None = None) -> Plugins:
    """Import the plugins, and leave it to the caller to tell of errors.

    The log keeps them to itself, except on the level "debug". Raises ``ConfigError`` for settings
    of a plugin that are wrong, or puts it into ``problems``.
    """
    import msgspec

    from mataserver import logs
    from mataserver import plugins as host

    logs.configure(settings.log_level, settings.log_format)
    given = {name: value for name, value in settings.plugins.items() if name != "strict"}
    lenient = msgspec.structs.replace(settings, plugins=given)
    with contextlib.nullcontext() if settings.log_level == "debug" else _quiet(host.log):
        return host.discover(lenient, problems=problems)


@contextlib.contextmanager
def _quiet(log: Any) -> Iterator[None]:
    def nothing(_record: object) -> bool:
        return False

    log.addFilter(nothing)
    try:
        yield
    finally:
        log.removeFilter(nothing)


def table(rows: Sequence[tuple[str, ...]], numbers: Container[int]) -> list[str]:
    """Return a table's lines; the columns of ``numbers`` stand on the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            f"{cell:>{width}}" if column in numbers else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
