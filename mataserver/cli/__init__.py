"""The command line. A command's module is imported when the command runs, and no sooner.

Failures are one line on stderr, ``error: ...``, and exit code 1; wrong usage is exit code 2.
"""

from __future__ import annotations

import importlib
import io
import sys
from typing import TYPE_CHECKING, Any

import click

from mataserver import __version__
from mataserver.cli.names import ALIASES, COMMANDS, TAKEN
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.metadata import EntryPoint

INTERRUPTED = 130


class Failed(click.ClickException):
    """A failure that the user is told about in one line."""

    def show(self, file: Any = None) -> None:
        """Write the line to stderr."""
        click.echo(f"error: {' '.join(self.message.split())}", file=file, err=True)


class PluginCommand(click.Command):
    """A plugin's command, known by name until it runs."""

    def __init__(self, point: EntryPoint) -> None:
        self._point = point
        self._owner = point.module if point.dist is None else point.dist.name
        super().__init__(point.name, help=f"Command of {self._owner}.")

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Import the command and let it take over."""
        return self._import().make_context(info_name, args, parent, **extra)

    def _import(self) -> click.Command:
        try:
            command = self._point.load()
        except Exception as error:  # noqa: BLE001 - plugin load: whatever it raises is its own
            raise self._broken(f"{type(error).__name__}: {error}") from None
        if not isinstance(command, click.Command):
            raise self._broken(f"it is a {type(command).__name__}, not a click command")
        return command

    def _broken(self, reason: str) -> Failed:
        return Failed(f"the command {self.name} of {self._owner} is broken: {reason}")


class Program(click.Group):
    """Our commands, then those of plugins; a plugin cannot take a name of ours."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return every name, without importing a plugin."""
        return [*COMMANDS, *sorted(_plugin_commands())]

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """Return a command; of ours its module is imported."""
        place = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        if place is not None:
            module, _, attribute = place.partition(":")
            command: click.Command = getattr(
                importlib.import_module(f"{__name__}.{module}"), attribute
            )
            return command
        point = _plugin_commands().get(cmd_name)
        return None if point is None else PluginCommand(point)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn what it raises into an exit code."""
        try:
            return super().invoke(ctx)
        except MataError as error:
            raise Failed(error.detail) from None
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


def _plugin_commands() -> dict[str, EntryPoint]:
    from mataserver import plugins

    found = plugins.commands()
    return {name: point for name, point in found.items() if name not in TAKEN}


@click.group(
    cls=Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, "-v", "--version", message="mataserver %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Serve computer vision models over REST and WebSocket."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without the dash gets a "?"
    cli.main(args=arguments, prog_name="mataserver")
