"""The command line. Nothing heavy is imported until a command runs."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from mataserver import __version__, config
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group(invoke_without_command=True)
@click.version_option(__version__, "-v", "--version", message="mataserver %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Serve computer vision models over REST and WebSocket."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@cli.command()
@click.option("--host")
@click.option("--port", type=int)
@click.option("--config", "file", type=click.Path())
def serve(host: str | None, port: int | None, file: str | None) -> None:
    """Start the inference server."""
    from mataserver import app, logs

    settings = config.load(file, host=host, port=port)
    logs.configure(settings.log_level, settings.log_format)

    def announce(url: str, _state: Any) -> None:
        print(f"mataserver {__version__} listens on {url}", flush=True)

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(app.run(settings, announce))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a ``MataError`` is one line on stderr and exit code 1."""
    try:
        cli(arguments)
    except MataError as error:
        print(f"error: {error.detail}", file=sys.stderr)
        sys.exit(1)
