"""``mataserver fleet``: applications, and who may ask them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mataserver_fleet.asking import on_server, part, tell

if TYPE_CHECKING:
    from mataserver_fleet.asking import Asking


@click.group()
def apps() -> None:
    """Make applications, and say which models they offer."""


@apps.command("list")
@on_server
def list_apps(ask: Asking) -> None:
    """List the applications."""
    for each in ask.every("apps"):
        offered = ",".join(route["model_name"] for route in each["routes"]) or "-"
        callers = ",".join(consumer["name"] for consumer in each["consumers"]) or "-"
        tell(each["name"], each["host"] or "-", offered, callers)


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


@click.group()
def consumers() -> None:
    """Make consumers, and say which applications they ask."""


@consumers.command("list")
@on_server
def list_consumers(ask: Asking) -> None:
    """List the consumers."""
    for each in ask.every("consumers"):
        state = "active" if each["active"] else "revoked"
        tell(each["name"], state, each["rate"] or "-", each["quota"] or "-", each["tags"] or "-")


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
