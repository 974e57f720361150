"""``mataserver fleet``: its models, and where they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mataserver import MataError
from mataserver_fleet.comparing import differences
from mataserver_fleet.fleet_client import print_line, print_row, quote_name, with_client
from mataserver_fleet.model_push import folder_of
from mataserver_fleet.model_push import push as pushed

if TYPE_CHECKING:
    from mataserver_fleet.fleet_client import FleetClient

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def models() -> None:
    """Push, list and remove models."""


@models.command("list")
@with_client
def list_models(ask: FleetClient) -> None:
    """List the models."""
    for each in ask.list_all("models"):
        versions = ",".join(version["version"] for version in each["versions"]) or "-"
        counted = each["inference_count"]
        print_row(each["name"], versions, each["state"], counted, each["reason"] or "-")


@models.command("push")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--name", help="Its name [default: the folder's].")
@click.option("--load", "loads", is_flag=True, help="Also load it on every Triton.")
@with_client
def push(ask: FleetClient, folder: Path, name: str | None, *, loads: bool) -> None:
    """Send the folder of a model.

    It is laid out as in Triton's repository. Files that are there already are not sent.
    """
    model = name or folder.resolve().name
    for line in pushed(ask, model, folder_of(folder)):
        print_line(line)
    if loads:
        _load(ask, model, "load", {})


@models.command("rollback")
@click.argument("model")
@with_client
def rollback(ask: FleetClient, model: str) -> None:
    """Go back to the version before the newest.

    It is loaded wherever the newest is wanted, and is one that loaded once.
    """
    for each in ask("POST", f"/api/models/{quote_name(model)}/rollback")["tritons"]:
        click.echo(f"{model} is rolled back at {each['triton']}")


@models.command("diff")
@click.argument("model")
@click.argument("old", type=click.IntRange(1))
@click.argument("new", type=click.IntRange(1))
@with_client
def diff(ask: FleetClient, model: str, old: int, new: int) -> None:
    """Tell what differs between two versions: configuration and files."""
    found = ask("GET", f"/api/models/{quote_name(model)}")
    versions = {int(each["version"]): each for each in found["versions"]}
    for number in (old, new):
        if number not in versions:
            raise MataError(f"{model} has no version {number}")
    for line in differences(versions[old], versions[new]):
        print_line(line)


@models.command("rm")
@click.argument("model")
@click.option("--force", is_flag=True, help="Also where an application offers it.")
@with_client
def remove_model(ask: FleetClient, model: str, *, force: bool) -> None:
    """Unload a model and remove it."""
    ask("DELETE", f"/api/models/{quote_name(model)}?force={str(force).lower()}")
    click.echo(f"removed {model}")


@click.command("load")
@click.argument("model")
@click.option("--triton", help="At this one [default: all that there are and will be].")
@click.option("--version", "versions", type=click.IntRange(1), multiple=True, help="Which ones.")
@with_client
def load(ask: FleetClient, model: str, triton: str | None, versions: tuple[int, ...]) -> None:
    """Load a model; loading an older version is how one goes back."""
    body = {"triton_id": triton, **({"versions": list(versions)} if versions else {})}
    _load(ask, model, "load", body)


@click.command("unload")
@click.argument("model")
@click.option("--triton", help="At this one [default: all].")
@with_client
def unload(ask: FleetClient, model: str, triton: str | None) -> None:
    """Unload a model."""
    _load(ask, model, "unload", {"triton_id": triton})


@click.command()
@click.argument("triton")
@click.argument("names", metavar="[MODEL]...", nargs=-1)
@click.option("--repository", type=_FOLDER, help="Its model repository as it is seen from here.")
@with_client
def adopt(ask: FleetClient, triton: str, names: tuple[str, ...], repository: Path | None) -> None:
    """Take over what a running Triton serves.

    Tells of each model whether that was possible.
    """
    from mataserver_fleet import adoption  # brings protobuf and more, which others do not need

    if refused := adoption.adopt(ask, triton, repository, names, print_row):
        raise MataError(f"{len(refused)} of the models that {triton} serves are not accepted")


def _load(ask: FleetClient, model: str, verb: str, body: dict[str, Any]) -> None:
    given = {field: value for field, value in body.items() if value is not None}
    done = ask("POST", f"/api/models/{quote_name(model)}/{verb}", given)
    for each in done["tritons"]:
        click.echo(f"{model} is {verb}ed at {each['triton']}")
