"""``mataserver fleet``: applications, and who may ask them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mataserver_fleet.fleet_client import print_row, quote_name, with_client

if TYPE_CHECKING:
    from mataserver_fleet.fleet_client import FleetClient


@click.group()
def apps() -> None:
    """Make applications, and say which models they offer."""


@apps.command("list")
@with_client
def list_apps(ask: FleetClient) -> None:
    """List the applications."""
    for each in ask.list_all("apps"):
        offered = ",".join(route["model_name"] for route in each["routes"]) or "-"
        callers = ",".join(consumer["name"] for consumer in each["consumers"]) or "-"
        print_row(each["name"], each["host"] or "-", offered, callers)


@apps.command("add")
@click.argument("name")
@click.option("--host", help="The public name that it is asked by.")
@click.option("--resend", is_flag=True, help="A model may safely receive a request twice.")
@with_client
def add_app(ask: FleetClient, name: str, host: str | None, *, resend: bool) -> None:
    """Make an application."""
    ask("POST", "/api/apps", {"name": name, "host": host, "resend": resend})
    click.echo(f"made {name}")


@apps.command("route")
@click.argument("name")
@click.argument("model")
@click.option("--path", "paths", multiple=True, help="May be given several times.")
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    type=click.Choice(("http", "grpc", "ws")),
    help="May be given several times [default of a new route: http].",
)
@with_client
def add_route(ask: FleetClient, name: str, model: str, **lists: tuple[str, ...]) -> None:
    """Have an application offer a model, or change how it does."""
    body = {field: list(values) for field, values in lists.items() if values}
    ask("POST", f"/api/apps/{quote_name(name)}/routes/{quote_name(model)}", body)
    listed = ask("GET", f"/api/apps/{quote_name(name)}/routes")
    for each in listed["routes"]:
        if each["model_name"] == model:
            click.echo(f"{model} is asked at {each['url']}")


@apps.command("rm")
@click.argument("name")
@with_client
def remove_app(ask: FleetClient, name: str) -> None:
    """Remove an application."""
    ask("DELETE", f"/api/apps/{quote_name(name)}")
    click.echo(f"removed {name}")


@click.group()
def consumers() -> None:
    """Make consumers, and say which applications they ask."""


@consumers.command("list")
@with_client
def list_consumers(ask: FleetClient) -> None:
    """List the consumers."""
    for each in ask.list_all("consumers"):
        state = "active" if each["active"] else "revoked"
        print_row(
            each["name"], state, each["rate"] or "-", each["quota"] or "-", each["tags"] or "-"
        )


@consumers.command("add")
@click.argument("app")
@click.argument("name")
@click.option("--rate", type=click.IntRange(1), help="Requests a minute.")
@click.option("--quota", type=click.IntRange(1), help="Requests a day.")
@with_client
def add_consumer(ask: FleetClient, app: str, name: str, **limits: Any) -> None:
    """Give a consumer access to an application.

    The key of a new consumer is printed, this once.
    """
    given = {field: value for field, value in limits.items() if value is not None}
    made = ask("POST", f"/api/apps/{quote_name(app)}/consumers/{quote_name(name)}", given)
    click.echo(made.get("key", f"{name} may ask {app}"))


@consumers.command("key")
@click.argument("name")
@with_client
def rotate(ask: FleetClient, name: str) -> None:
    """Replace a consumer's key and print the new one."""
    click.echo((ask("POST", f"/api/consumers/{quote_name(name)}/key"))["key"])


@consumers.command("rm")
@click.argument("name")
@with_client
def remove_consumer(ask: FleetClient, name: str) -> None:
    """Remove a consumer."""
    ask("DELETE", f"/api/consumers/{quote_name(name)}")
    click.echo(f"removed {name}")
