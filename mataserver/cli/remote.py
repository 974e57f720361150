"""Commands' connection to a running server; ``mataserver load`` and ``stop``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from mataserver import config
from mataserver.cli.environment import config_option
from mataserver.config.addresses import is_loopback, server_url
from mataserver.config.credentials import client_key, key_file
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mataserver.config import Settings
    from mataserver_client import Client

F = TypeVar("F", bound="Callable[..., Any]")
_USER_HINT = "the user and password of --url were sent, so no key; without them a key is"


def server_options(function: F) -> F:
    """Add ``--url``, ``--api-key`` and ``--config``, the arguments of ``connected``."""
    for option in (
        config_option,
        click.option(
            "--api-key", help="API key [default: MATA_SERVER_API_KEY, else the stored key]."
        ),
        click.option("--url", help="Server base URL [default: from the settings' host and port]."),
    ):
        function = option(function)
    return function


@click.command()
@click.argument("model")
@server_options
def load(model: str, url: str | None, api_key: str | None, config_file: str | None) -> None:
    """Preload a model into memory (alias: warmup)."""
    with connected(url, api_key, config_file) as client:
        client.warmup(model)
    click.echo(f"Model '{model}' loaded into memory.")


@click.command()
@click.argument("model")
@server_options
def stop(model: str, url: str | None, api_key: str | None, config_file: str | None) -> None:
    """Unload a model from memory."""
    with connected(url, api_key, config_file) as client:
        done = client.unload(model).status == "unloaded"
    if done:
        click.echo(f"Model '{model}' unloaded from memory.")
    else:
        click.echo(f"Model '{model}' was not loaded (nothing to stop).")


@contextlib.contextmanager
def connected(url: str | None, api_key: str | None, file: str | None) -> Iterator[Client]:
    """Yield a client of the server. Raises ``MataError``, also if there is no server."""
    from mataserver import late_certificates

    with late_certificates.reading_late():
        from mataserver_client import (
            AuthenticationFailed,
            Client,
            ConnectionFailed,
            InvalidParams,
        )

    settings = config.load(file)
    address = url or server_url(settings)
    try:
        key = api_key or key_for(settings, url)
        client = Client(address, key)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    parts = urlsplit(address)
    _, at, where = parts.netloc.rpartition("@")
    with client:
        try:
            yield client
        except AuthenticationFailed as error:
            hint = _USER_HINT if at else _key_hint(settings, key, api_key)
            raise MataError(error.detail, hint=hint) from None
        except InvalidParams as error:  # the command's option is -p, without a field around it
            raise InvalidParams(error.detail.removeprefix("params."), hint=error.hint) from None
        except ConnectionFailed as error:
            if not error.detail.startswith("No connection to"):  # another reason, in a sentence
                raise
            shown = parts._replace(netloc=where).geturl()
            raise MataError(
                f"cannot reach the server at {shown}; is it running? (mataserver serve)"
            ) from None


def _key_hint(settings: Settings, key: str | None, option: str | None) -> str:
    """Explain where the sent key comes from, and where another may be."""
    kept = f"a server keeps the key that it made in {key_file(settings)}"
    if option:
        return f"the key is that of --api-key; {kept}"
    if key is None:
        return f"no key was found: set MATA_SERVER_API_KEY or give --api-key; {kept}"
    if key in settings.keys:
        return f"the key is that of MATA_SERVER_API_KEY, api_key or api_keys; {kept}"
    return f"the key is that of {key_file(settings)}; this server has others: give --api-key"


def key_for(settings: Settings, url: str | None) -> str | None:
    """Return the key to send; this machine's server keys are sent to this machine only.

    None beside a URL's user and password, which have the place of a key.
    """
    if url is not None and urlsplit(url).username is not None:
        return None
    if url is None or is_loopback(urlsplit(url).hostname or ""):
        return client_key(settings)
    return settings.api_key
