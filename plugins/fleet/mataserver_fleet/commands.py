"""``mataserver fleet``: a running server's fleet from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mataserver import MataError
from mataserver_fleet.asking import on_server, part
from mataserver_fleet.comparing import differences
from mataserver_fleet.pushing import folder_of
from mataserver_fleet.pushing import push as pushed

if TYPE_CHECKING:
    from mataserver_fleet.asking import Asking

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_PORT = click.IntRange(1, 65_535)


@click.group()
def fleet() -> None:
    """Look after many Tritons: models, applications, consumers."""


# tritons


@fleet.group()
def tritons() -> None:
    """Register, list and forget Tritons."""


@tritons.command("list")
@on_server
def list_tritons(ask: Asking) -> None:
    """List the Tritons."""
    for each in ask.every("tritons"):
        served = ",".join(f"{model['name']}:{model['version']}" for model in each["models"]) or "-"
        place = f"{each['host']}:{each['port']}"
        _tell(each["name"], place, each["state"], served, each["reason"] or "-")


@tritons.command("add")
@click.argument("name")
@click.argument("host")
@click.argument("port", type=_PORT)
@click.option("--grpc-port", type=_PORT)
@click.option("--metrics-port", type=_PORT)
@click.option("--gpus", type=click.IntRange(0, 1024))
@click.option("--path", help="Its model repository, where the server sees it too.")
@on_server
def add_triton(ask: Asking, name: str, **fields: Any) -> None:
    """Register a Triton."""
    given = {field: value for field, value in fields.items() if value is not None}
    ask("POST", "/api/tritons", {"name": name, **given})
    click.echo(f"registered {name}")


@tritons.command("rm")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also where it has models.")
@on_server
def remove_triton(ask: Asking, name: str, *, force: bool) -> None:
    """Forget a Triton."""
    ask("DELETE", f"/api/tritons/{part(name)}?force={str(force).lower()}")
    click.echo(f"forgot {name}")


# models


@fleet.group()
def models() -> None:
    """Push, list and remove models."""


@models.command("list")
@on_server
def list_models(ask: Asking) -> None:
    """List the models."""
    for each in ask.every("models"):
        versions = ",".join(version["version"] for version in each["versions"]) or "-"
        counted = each["inference_count"]
        _tell(each["name"], versions, each["state"], counted, each["reason"] or "-")


@models.command("push")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--name", help="Its name [default: the folder's].")
@click.option("--load", "loads", is_flag=True, help="Load it at all Tritons as well.")
@on_server
def push(ask: Asking, folder: Path, name: str | None, *, loads: bool) -> None:
    """Send a model's folder, as it stands in Triton's repository: what is there already is not."""
    model = name or folder.resolve().name
    for line in pushed(ask, model, folder_of(folder)):
        click.echo(line)
    if loads:
        _load(ask, model, "load", {})


@models.command("rollback")
@click.argument("model")
@on_server
def rollback(ask: Asking, model: str) -> None:
    """Load the version before the newest that is wanted, wherever that is: one that loaded once."""
    for each in ask("POST", f"/api/models/{part(model)}/rollback")["tritons"]:
        click.echo(f"{model} is rolled back at {each['triton']}")


@models.command("diff")
@click.argument("model")
@click.argument("old", type=click.IntRange(1))
@click.argument("new", type=click.IntRange(1))
@on_server
def diff(ask: Asking, model: str, old: int, new: int) -> None:
    """Tell what differs between two versions: configuration and files."""
    found = ask("GET", f"/api/models/{part(model)}")
    versions = {int(each["version"]): each for each in found["versions"]}
    for number in (old, new):
        if number not in versions:
            raise MataError(f"{model} has no version {number}")
    for line in differences(versions[old], versions[new]):
        click.echo(line)


@models.command("rm")
@click.argument("model")
@click.option("--force", is_flag=True, help="Also where an application offers it.")
@on_server
def remove_model(ask: Asking, model: str, *, force: bool) -> None:
    """Unload a model and remove it."""
    ask("DELETE", f"/api/models/{part(model)}?force={str(force).lower()}")
    click.echo(f"removed {model}")


@fleet.command("load")
@click.argument("model")
@click.option("--triton", help="At this one [default: all that there are and will be].")
@click.option("--version", "versions", type=click.IntRange(1), multiple=True, help="Which ones.")
@on_server
def load(ask: Asking, model: str, triton: str | None, versions: tuple[int, ...]) -> None:
    """Load a model; loading an older version is how one goes back."""
    body = {"triton_id": triton, **({"versions": list(versions)} if versions else {})}
    _load(ask, model, "load", body)


@fleet.command("unload")
@click.argument("model")
@click.option("--triton", help="At this one [default: all].")
@on_server
def unload(ask: Asking, model: str, triton: str | None) -> None:
    """Unload a model."""
    _load(ask, model, "unload", {"triton_id": triton})


@fleet.command()
@click.argument("triton")
@click.argument("names", metavar="[MODEL]...", nargs=-1)
@click.option("--repository", type=_FOLDER, help="Its model repository as it is seen from here.")
@on_server
def adopt(ask: Asking, triton: str, names: tuple[str, ...], repository: Path | None) -> None:
    """Take over what a running Triton serves, and tell of each model whether that was possible."""
    from mataserver_fleet import adopting  # brings protobuf and more, which others do not need

    if refused := adopting.adopt(ask, triton, repository, names, click.echo):
        raise MataError(f"{len(refused)} of the models that {triton} serves are not taken")


# applications


@fleet.group()
def apps() -> None:
    """Make applications, and say which models they offer."""


@apps.command("list")
@on_server
def list_apps(ask: Asking) -> None:
    """List the applications."""
    for each in ask.every("apps"):
        offered = ",".join(route["model_name"] for route in each["routes"]) or "-"
        callers = ",".join(consumer["name"] for consumer in each["consumers"]) or "-"
        _tell(each["name"], each["host"] or "-", offered, callers)


@apps.command("add")
@click.argument("name")
@click.option("--host", help="The public name that it is asked by.")
@click.option("--resend", is_flag=True, help="Asking a model twice is harmless.")
@on_server
def add_app(ask: Asking, name: str, host: str | None, *, resend: bool) -> None:
    """Make an application."""
    ask("POST", "/api/apps", {"name": name, "host": host, "resend": resend})
    click.echo(f"made {name}")


@apps.command("route")
@click.argument("name")
@click.argument("model")
@click.option("--path", "paths", multiple=True, help="May be given several times.")
@on_server
def add_route(ask: Asking, name: str, model: str, paths: tuple[str, ...]) -> None:
    """Have an application offer a model."""
    body = {"paths": list(paths)} if paths else {}
    ask("POST", f"/api/apps/{part(name)}/routes/{part(model)}", body)
    listed = ask("GET", f"/api/apps/{part(name)}/routes")
    for each in listed["routes"]:
        if each["model_name"] == model:
            click.echo(f"{model} is asked at {each['url']}")


@apps.command("rm")
@click.argument("name")
@on_server
def remove_app(ask: Asking, name: str) -> None:
    """Remove an application."""
    ask("DELETE", f"/api/apps/{part(name)}")
    click.echo(f"removed {name}")


# consumers


@fleet.group()
def consumers() -> None:
    """Make consumers, and say which applications they ask."""


@consumers.command("list")
@on_server
def list_consumers(ask: Asking) -> None:
    """List the consumers."""
    for each in ask.every("consumers"):
        state = "active" if each["active"] else "revoked"
        _tell(each["name"], state, each["rate"] or "-", each["quota"] or "-", each["tags"] or "-")


@consumers.command("add")
@click.argument("app")
@click.argument("name")
@click.option("--rate", type=click.IntRange(1), help="Requests a minute.")
@click.option("--quota", type=click.IntRange(1), help="Requests a day.")
@on_server
def add_consumer(ask: Asking, app: str, name: str, **limits: Any) -> None:
    """Let a consumer ask an application; the key of a new one is printed, this once."""
    given = {field: value for field, value in limits.items() if value is not None}
    made = ask("POST", f"/api/apps/{part(app)}/consumers/{part(name)}", given)
    click.echo(made.get("key", f"{name} may ask {app}"))


@consumers.command("key")
@click.argument("name")
@on_server
def rotate(ask: Asking, name: str) -> None:
    """Give a consumer another key and print it; the one of before counts no more."""
    click.echo((ask("POST", f"/api/consumers/{part(name)}/key"))["key"])


@consumers.command("rm")
@click.argument("name")
@on_server
def remove_consumer(ask: Asking, name: str) -> None:
    """Remove a consumer."""
    ask("DELETE", f"/api/consumers/{part(name)}")
    click.echo(f"removed {name}")


# the whole


@fleet.command()
@on_server
def export(ask: Asking) -> None:
    """Write the fleet as a document in YAML, without files and secrets."""
    from mataserver_fleet import manifest  # with the server's types, which others do not need

    click.echo(manifest.written(manifest.current(ask)), nl=False)


@fleet.command()
@click.option("-f", "--file", "path", type=_FILE, required=True, help="The document.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--prune", is_flag=True, help="Take away what it leaves out, but for models.")
@on_server
def apply(ask: Asking, path: Path, *, dry_run: bool, prune: bool) -> None:
    """Make the fleet as a document says, and tell each change; what is so already stays."""
    from mataserver_fleet import manifest, planning
    from mataserver_fleet.applying import Applying

    wanted, found = manifest.read(path), manifest.current(ask)
    if said := planning.problems(found, wanted):
        raise MataError(f"{path}: " + "; ".join(said))
    applying, late = Applying(ask, found, click.echo), []
    for step in planning.steps(found, wanted, prune=prune):
        click.echo(step.told)
        if not dry_run and (why := applying.do(step)):
            late.append(why)
    if late:
        raise MataError("it is wanted so now, and not done yet: " + "; ".join(late))


def _load(ask: Asking, model: str, verb: str, body: dict[str, Any]) -> None:
    given = {field: value for field, value in body.items() if value is not None}
    done = ask("POST", f"/api/models/{part(model)}/{verb}", given)
    for each in done["tritons"]:
        click.echo(f"{model} is {verb}ed at {each['triton']}")


def _tell(*words: object) -> None:
    click.echo("\t".join(str(word).partition("\n")[0] for word in words))
