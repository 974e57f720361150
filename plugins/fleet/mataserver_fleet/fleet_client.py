"""A running server as the commands ask it."""

from __future__ import annotations

import functools
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from mataserver import MataError, connected, printable, server_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mataserver import Client

PAGE_SIZE = 1_000
"""How many things of a list are asked for at a time."""


class FleetClient:
    """Asks a server; what it refuses is raised as ``MataError`` with its sentence."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(self, method: str, path: str, value: object = None) -> Any:
        """Return what is answered. Raises ``MataError``."""
        return self.tagged(method, path, value)[0]

    def tagged(
        self, method: str, path: str, value: object = None, tag: str | None = None
    ) -> tuple[Any, str]:
        """Return what is answered, and its ``ETag``, empty without one. Raises ``MataError``.

        With the ``tag`` of a thing it is changed only as long as that is its own: else it is 412.
        """
        headers = None if tag is None else {"If-Match": tag}
        answer = self._client.request(method, path, value, headers=headers)
        return answer.decode(Any), answer.headers.get("ETag", "")

    def send(self, path: str, fields: Mapping[str, str], files: Mapping[str, bytes]) -> Any:
        """Send a form with files by their names. Raises ``MataError``."""
        boundary = uuid.uuid4().hex
        kind = f"multipart/form-data; boundary={boundary}"
        body = _form(boundary, fields, files)
        answer = self._client.request("POST", path, data=body, headers={"Content-Type": kind})
        return answer.decode(Any)

    def list_all(self, kind: str) -> list[dict[str, Any]]:
        """Return all things of a kind: ``tritons``, ``models``, ``apps``, ``consumers``."""
        answer = self("GET", f"/api/{kind}?limit={PAGE_SIZE}")
        found: list[dict[str, Any]] = answer[kind]
        while cursor := answer.get("next_cursor"):
            answer = self("GET", f"/api/{kind}?limit={PAGE_SIZE}&cursor={quote_name(cursor)}")
            found += answer[kind]
        return found

    def find(self, path: str) -> dict[str, Any] | None:
        """Return a thing, None where there is none of that name. Raises ``MataError``."""
        try:
            found: dict[str, Any] = self("GET", path)
        except MataError as error:
            if error.status == 404:
                return None
            raise
        return found


def with_client(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that is given the server."""

    @server_options
    @functools.wraps(command)
    def run(*, url: str | None, api_key: str | None, config_file: str | None, **given: Any) -> None:
        with connected(url, api_key, config_file) as client:
            command(FleetClient(client), **given)

    return run


def quote_name(name: str) -> str:
    """Return a name as a part of a path."""
    return quote(name, safe="")


def _form(boundary: str, fields: Mapping[str, str], files: Mapping[str, bytes]) -> bytes:
    """Return a form (RFC 7578). Raises ``MataError`` for a name that cannot stand in one."""
    pieces: list[bytes] = []
    for name, value in fields.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        pieces += [head.encode(), value.encode(), b"\r\n"]
    for name, content in files.items():
        if not name.isprintable() or '"' in name:
            raise MataError(f"{name!r}: a file's name must be printable and without quotes")
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="files[]"; filename="{name}"'
        pieces += [f"{head}\r\n\r\n".encode(), content, b"\r\n"]
    return b"".join([*pieces, f"--{boundary}--\r\n".encode()])


def print_line(text: str) -> None:
    """Print a text whole, as one line."""
    click.echo(printable(text))


def print_row(*words: object) -> None:
    """Print words with tabs between, of each its first line.

    A Triton's reason may have what a terminal would obey.
    """
    lines = (str(word).partition("\n")[0] for word in words)
    click.echo("\t".join(map(printable, lines)))
