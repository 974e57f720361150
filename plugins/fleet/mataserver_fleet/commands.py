"""``mataserver fleet``: a running server's fleet from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mataserver import MataError
from mataserver_fleet.app_commands import apps, consumers
from mataserver_fleet.fleet_client import print_line, print_row, quote_name, with_client
from mataserver_fleet.model_commands import adopt, load, models, unload

if TYPE_CHECKING:
    from mataserver_fleet.fleet_client import FleetClient

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_PORT = click.IntRange(1, 65_535)


@click.group()
def fleet() -> None:
    """Look after many Tritons: models, applications, consumers."""


for each in (models, load, unload, adopt, apps, consumers):
    fleet.add_command(each)


@fleet.group()
def tritons() -> None:
    """Register, list and forget Tritons."""


@tritons.command("list")
@with_client
def list_tritons(ask: FleetClient) -> None:
    """List the Tritons."""
    for each in ask.list_all("tritons"):
        served = ",".join(f"{model['name']}:{model['version']}" for model in each["models"]) or "-"
        place, why = f"{each['host']}:{each['port']}", each["reason"] or "-"
        if each["state"] == "offline" and each["answered_at"]:
            why += f"; it answered last at {each['answered_at']}"
        print_row(each["name"], place, each["state"], served, why)


@tritons.command("add")
@click.argument("name")
@click.argument("host")
@click.argument("port", type=_PORT)
@click.option("--grpc-port", type=_PORT)
@click.option("--metrics-port", type=_PORT)
@click.option("--gpus", type=click.IntRange(0, 1024))
@click.option("--path", help="Its model repository, where the server sees it too.")
@with_client
def add_triton(ask: FleetClient, name: str, **fields: Any) -> None:
    """Register a Triton."""
    given = {field: value for field, value in fields.items() if value is not None}
    ask("POST", "/api/tritons", {"name": name, **given})
    click.echo(f"registered {name}")


@tritons.command("rm")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also where it has models.")
@with_client
def remove_triton(ask: FleetClient, name: str, *, force: bool) -> None:
    """Forget a Triton."""
    ask("DELETE", f"/api/tritons/{quote_name(name)}?force={str(force).lower()}")
    click.echo(f"forgot {name}")


@fleet.command()
@with_client
def export(ask: FleetClient) -> None:
    """Print the fleet as YAML, without files and secrets."""
    from mataserver_fleet import manifest  # with the server's types, which others do not need

    click.echo(manifest.dump(manifest.current(ask)), nl=False)


@fleet.command()
@click.option("-f", "--file", "path", type=_FILE, required=True, help="The document.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--prune", is_flag=True, help="Take away what it leaves out, but for models.")
@with_client
def apply(ask: FleetClient, path: Path, *, dry_run: bool, prune: bool) -> None:
    """Make the fleet as a document says.

    Tells each change; what is as the document says stays.
    """
    from mataserver_fleet import manifest, planning
    from mataserver_fleet.document_apply import DocumentApplier

    wanted, found = manifest.read(path), manifest.current(ask)
    if reasons := planning.problems(found, wanted):
        raise MataError(f"{path}: " + "; ".join(reasons))
    applying, late = DocumentApplier(ask, found, print_line), []
    for step in planning.steps(found, wanted, prune=prune):
        print_line(step.line)
        if not dry_run and (why := applying.do(step)):
            late.append(why)
    if late:
        raise MataError("it is wanted so now, and not done yet: " + "; ".join(late))
