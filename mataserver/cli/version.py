"""``mataserver version``."""

from __future__ import annotations

import click

from mataserver import __version__


@click.command()
def version() -> None:
    """Print the mataserver version and exit."""
    click.echo(f"mataserver {__version__}")
