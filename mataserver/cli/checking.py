"""``mataserver check``."""

from __future__ import annotations

import contextlib
import sys

import click

from mataserver.cli.environment import config_option, configuration


@click.command()
@config_option
@click.pass_context
def check(ctx: click.Context, config_file: str | None) -> None:
    """Check a configuration and every plugin."""
    from mataserver.cli import findings

    file = configuration(config_file) or config_file
    click.echo(f"checking {file or 'the defaults and the environment: no configuration file'}")
    with contextlib.redirect_stdout(sys.stderr):  # whatever plugins print is not its output
        found = findings.examine(config_file)
    for line in found.lines():
        click.echo(line)
    ctx.exit(1 if found.errors else 0)
