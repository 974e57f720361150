"""The local environment of commands: settings, registry and plugins."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from mataserver import config
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    from mataserver.config import Settings
    from mataserver.plugins import Plugins

F = TypeVar("F", bound="Callable[..., Any]")

UNKNOWN = "—"
"""Printed for a missing value."""


def config_option(function: F) -> F:
    """Add ``--config FILE``, passed as ``config_file``; errors in that file name it."""

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
    """Return a configuration error with its file, unless it is already named."""
    place, _, problem = error.detail.partition(": ")
    path = configuration(file)
    if place not in {"configuration", "models"} or path is None or path.name in problem:
        return error
    what = problem if place == "configuration" else error.detail
    return config.ConfigError(f"configuration ({path}): {what}", hint=error.hint)


def configuration(file: str | None) -> Path | None:
    """Return the configuration file's path for display, None without one."""
    folder = Path.cwd()
    try:
        found = config.find(file, config.variables(folder), folder)
    except config.ConfigError:
        return None
    return found.relative_to(folder) if found and found.is_relative_to(folder) else found


def warn(text: str) -> None:
    """Print one line of warning to stderr."""
    click.echo(f"warning: {' '.join(text.split())}", err=True)


def take_hub_variables() -> None:
    """Import ``HF_*`` variables (``HF_TOKEN`` for gated models) from ``.env`` into the environment.

    The hub's library reads them there; variables already set take precedence.
    """
    for name, value in config.dotenv(Path.cwd()).items():
        if name.startswith("HF_"):
            os.environ.setdefault(name, value)


def plugins(settings: Settings) -> Plugins:
    """Import the plugins; warn of broken ones. Raises ``ConfigError``.

    Ignores ``plugins.strict``, which applies to a server's start only.
    """
    found = discover(settings)
    for plugin in found.found:
        if plugin.error_line is not None:
            warn(f"the plugin {plugin.name} is not in use: {plugin.error_line}")
    return found


def discover(settings: Settings, problems: list[config.ConfigError] | None = None) -> Plugins:
    """Import the plugins; the caller reports errors.

    Their log is suppressed, except at level "debug". Raises ``ConfigError`` for invalid settings of
    a plugin, or appends it to ``problems``.
    """
    import msgspec

    from mataserver import logs
    from mataserver import plugins as host

    logs.configure(settings.log_level, "text")  # a person reads it, whatever the server's format
    given = settings.plugins
    if given.get("strict") is True:
        given = {**given, "strict": False}
    lenient = msgspec.structs.replace(settings, plugins=given)
    quiet = contextlib.nullcontext() if settings.log_level == "debug" else _quiet(host.log)
    # What a plugin prints when it is imported is no part of a command's output.
    with quiet, contextlib.redirect_stdout(sys.stderr):
        return host.discover(lenient, problems=problems)


@contextlib.contextmanager
def _quiet(log: Any) -> Iterator[None]:
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = False


def table(rows: Sequence[tuple[str, ...]], numbers: Container[int] = ()) -> list[str]:
    """Return a table's lines; the columns in ``numbers`` are right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            f"{cell:>{width}}" if column in numbers else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
