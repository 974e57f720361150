"""The commands ``mataserver users`` and ``mataserver keys``: they work on the database itself.

A server that runs beside them follows within a second.
"""

from __future__ import annotations

import asyncio
import getpass
import re
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, get_args

import click
import msgspec

from mataserver import (
    SCOPES,
    InvalidParams,
    MataError,
    connected,
    printable,
    read_configuration,
    server_options,
)
from mataserver_accounts.passwords import MAX_LENGTH, Passwords
from mataserver_accounts.records import KeyName, Role, Tags, UserName, check_scopes
from mataserver_accounts.store import Accounts
from mataserver_accounts.tables import SCHEMA
from mataserver_database import Database, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mataserver import Client

T = TypeVar("T")
P = ParamSpec("P")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_ROLES = click.Choice(get_args(Role))


def _on_accounts(
    command: Callable[Concatenate[Accounts, P], Coroutine[Any, Any, None]],
) -> Callable[..., None]:
    """Return a command that is given the accounts of the configuration."""

    @click.option("--config", "config_file", metavar="FILE", help="Configuration of the server.")
    def run(config_file: str | None, *args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(_with_accounts(config_file, lambda found: command(found, *args, **kwargs)))

    run.__doc__ = command.__doc__
    run.__name__ = command.__name__
    return run


async def _with_accounts(
    config_file: str | None, work: Callable[[Accounts], Coroutine[Any, Any, None]]
) -> None:
    configured = read_configuration(config_file)
    settings = configured.plugin("database", Settings)
    database = Database(configured.data_dir, settings.url, timeout=settings.timeout, pool=1)
    try:
        await database.migrate(SCHEMA)
        accounts = Accounts(database, Passwords())
        await accounts.secret("version")
        await work(accounts)
    finally:
        await database.close()


@click.command("passwd")
@click.argument("name")
@server_options
def own_password(name: str, url: str | None, api_key: str | None, config_file: str | None) -> None:
    """Give yourself another password, on the running server."""
    current = _password("Current password: ", again=False)
    with connected(url, api_key, config_file) as client:
        token = _fetch_token(client, "POST", "/auth/token", {"username": name, "password": current})
    with connected(url, token, config_file) as client:
        asked = {"current": current, "new": _password("New password: ")}
        _fetch_token(client, "PUT", "/v1/me/password", asked)
    click.echo(f"{name} has another password")


def _fetch_token(client: Client, method: str, path: str, value: dict[str, str]) -> str:
    """Return the token that is answered; what is refused has to do with no key."""
    try:
        answer = client.request(method, path, value).decode(dict[str, Any])
    except MataError as error:
        raise MataError(error.detail) from None
    return str(answer["access_token"])


# users


@click.group()
def users() -> None:
    """Make, change and remove users."""


@users.command("add")
@click.argument("name")
@click.option("--role", type=_ROLES, default="viewer", show_default=True)
@click.option("--tag", "tags", multiple=True, help="May be given several times.")
@_on_accounts
async def add_user(accounts: Accounts, name: str, role: Role, tags: tuple[str, ...]) -> None:
    """Make a user. The password is asked for, or read from standard input."""
    _checked("name", name, UserName)
    _checked("tags", list(tags), Tags)
    user = await accounts.add_user(name, _password(), role, tags)
    click.echo(f"created the user {user.name} ({user.role})")


@users.command("list")
@_on_accounts
async def list_users(accounts: Accounts) -> None:
    """List the users."""
    for user in (await accounts.users()).users:
        state = "disabled" if user.disabled else "-"
        tags = ",".join(user.tags) or "-"
        _print_row(user.name, user.role, state, tags, user.id)


@users.command("passwd")
@click.argument("name")
@_on_accounts
async def passwd(accounts: Accounts, name: str) -> None:
    """Give a user another password; the tokens of before end."""
    await accounts.user(name)
    await accounts.change_user(name, password=_password())
    click.echo(f"{name} has another password")


@users.command("disable")
@click.argument("name")
@_on_accounts
async def disable(accounts: Accounts, name: str) -> None:
    """Keep a user out, their keys included."""
    await accounts.change_user(name, disabled=True)
    click.echo(f"disabled {name}")


@users.command("enable")
@click.argument("name")
@_on_accounts
async def enable(accounts: Accounts, name: str) -> None:
    """Let a disabled user in again."""
    await accounts.change_user(name, disabled=False)
    click.echo(f"enabled {name}")


@users.command("rm")
@click.argument("name")
@_on_accounts
async def remove_user(accounts: Accounts, name: str) -> None:
    """Remove a user and their keys."""
    await accounts.remove_user(name)
    click.echo(f"removed {name}")


# keys


@click.group()
def keys() -> None:
    """Make and revoke keys."""


@keys.command("add")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    help=f"One of {', '.join(SCOPES)}; repeat it for several.",
)
@click.option("--owner", metavar="USER", help="Whose it is [default: nobody's].")
@click.option("--rate", type=click.IntRange(1, 1_000_000), help="Requests a minute.")
@click.option("--expires", metavar="TIME", help="From now: 12h, 30d.")
@_on_accounts
async def add_key(
    accounts: Accounts,
    name: str,
    scopes: tuple[str, ...],
    owner: str | None,
    rate: int | None,
    expires: str | None,
) -> None:
    """Make a key and print it, this once."""
    _checked("name", name, KeyName)
    whose = None if owner is None else (await accounts.user(owner)).id
    until = None if expires is None else time.time() + _seconds(expires)
    made = await accounts.add_key(
        name, check_scopes(scopes), owner=whose, rate=rate, expires_at=until
    )
    click.echo(made.key)


@keys.command("list")
@_on_accounts
async def list_keys(accounts: Accounts) -> None:
    """List the keys."""
    names = {user.id: user.name for user in (await accounts.users()).users}
    for key in (await accounts.keys()).keys:
        owner = "-" if key.owner is None else names.get(key.owner, key.owner)
        rate = "-" if key.rate is None else f"{key.rate}/min"
        until = "-" if key.expires_at is None else _date(key.expires_at)
        _print_row(key.id, key.name, owner, ",".join(key.scopes), rate, until)


@keys.command("rm")
@click.argument("key_id", metavar="ID")
@_on_accounts
async def remove_key(accounts: Accounts, key_id: str) -> None:
    """Revoke a key."""
    await accounts.revoke_key(key_id)
    click.echo(f"revoked {key_id}")


def _password(prompt: str = "Password: ", *, again: bool = True) -> str:
    """Return a password: typed at a terminal, twice or once, else a line of standard input.

    Never an argument: everybody on the machine sees those. Raises ``MataError`` for none.
    """
    if sys.stdin.isatty():
        password = getpass.getpass(prompt)
        if again and password != getpass.getpass("Again: "):
            raise MataError("the passwords differ")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise MataError("a password is needed: at the prompt, or as a line of standard input")
    if len(password) > MAX_LENGTH:
        raise MataError(f"a password has at most {MAX_LENGTH} characters")
    return password


def _print_row(*words: str) -> None:
    """Print words with tabs between, without what a terminal obeys: older ones may have it."""
    click.echo("\t".join(map(printable, words)))


def _checked(what: str, value: Any, kind: Any) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise InvalidParams(f"{what}: {value[:64]!r} cannot be one") from None


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None or not int(found[1]):
        raise click.UsageError("--expires: a number and s, m, h or d, such as 30d")
    return float(int(found[1]) * _UNITS[found[2]])


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
