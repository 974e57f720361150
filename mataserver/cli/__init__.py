"""The command line. A command's module is imported only when the command runs.

Failures are one line on stderr, ``error: ...``, and exit code 1; wrong usage is exit code 2.
"""

from __future__ import annotations

import importlib
import io
import sys
from typing import TYPE_CHECKING, Any

import click

from mataserver import __version__
from mataserver.cli import extensions, output
from mataserver.cli.extensions import ALIASES, COMMANDS
from mataserver.errors import MataError
from mataserver.printing import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130


class CommandError(click.ClickException):
    """A failure, reported to the user in one line."""

    def show(self, file: Any = None) -> None:
        """Write the line to stderr, without what a terminal obeys: a server may quote others."""
        click.echo(f"error: {' '.join(printable(self.message).split())}", file=file, err=True)


class Program(click.Group):
    """The built-in commands, then those of plugins, which cannot override built-in names."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return every name, without importing a plugin."""
        return [*COMMANDS, *(e.name for e in extensions.found().values() if e.rejection is None)]

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        cmd_name: str,
    ) -> click.Command | None:
        """Return a command, importing the module of a built-in one."""
        place = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        if place is not None:
            module, _, attribute = place.partition(":")
            command: click.Command = getattr(
                importlib.import_module(f"{__name__}.{module}"), attribute
            )
            return command
        extension = extensions.found().get(cmd_name)
        return None if extension is None else extensions.ExtensionCommand(extension)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; say what there is instead if there is none."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            ctx.fail(extensions.describe_missing(args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; convert exceptions to exit codes."""
        try:
            return super().invoke(ctx)
        except MataError as error:
            raise CommandError(error.told) from None
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


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
            stream.reconfigure(errors="replace")  # a terminal that lacks the dash shows "?"
    try:
        cli.main(args=arguments, prog_name="mataserver")
    except OSError as error:
        if not output.is_full(error):
            raise
        output.discard()
        CommandError(f"the output cannot be written: {error.strerror}").show()
        sys.exit(1)
