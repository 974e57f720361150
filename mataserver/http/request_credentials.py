"""Credentials presented by a request, or by a call that did not arrive by HTTP.

``Authorization: Bearer KEY``, ``X-API-Key: KEY``, ``Authorization: Basic`` with the key as the
password (RFC 7617), or a WebSocket's ``?token=``.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import hdrs

from mataserver.errors import BadRequest, InvalidParams
from mataserver.principals import Credentials
from mataserver.suggestion import similar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aiohttp import web

    from mataserver.principals import Scheme

API_KEY = "X-API-Key"


def is_socket(request: web.Request) -> bool:
    """Whether a request asks for a WebSocket."""
    return request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"


def credentials_of_metadata(
    metadata: Iterable[tuple[str, str]], path: str, address: str = ""
) -> Iterator[Credentials]:
    """Yield the credentials in a call's metadata, whose names are header names in lower case.

    Raises ``BadRequest`` for a duplicate key.
    """
    given: dict[str, list[str]] = {"authorization": [], API_KEY.lower(): []}
    for name, value in metadata:
        if name in given:
            given[name].append(value)
    for each in _parse_headers(*(sole_value(name, values) for name, values in given.items())):
        yield Credentials(*each, "POST", path, address=address)


class DuplicateValue(BadRequest):
    """400: a duplicate key, or two different ones."""


def sole_value(name: str, values: Sequence[str]) -> str:
    """Return the value of a field that may occur once, empty if it does not occur.

    Programs differ in which of two keys they use, so a proxy could have checked another one than
    the server does. Raises ``BadRequest``.
    """
    if len(values) > 1:
        raise DuplicateValue(f"{name} is there {len(values)} times: send one")
    return values[0] if values else ""


def without_repeats(given: Iterable[Credentials]) -> Iterator[Credentials]:
    """Yield the credentials, each secret once: some clients send a key in both headers."""
    seen = set()
    for each in given:
        if each.secret not in seen:
            seen.add(each.secret)
            yield each


def check_query(request: web.Request, known: Iterable[str]) -> None:
    """Raise ``InvalidParams`` for a query parameter that is unknown, or given twice.

    Otherwise an unknown filter would be ignored, and the answer would contain everything; of two
    values, one would be ignored.
    """
    names = tuple(known)
    for name in request.query:
        if name not in names:
            raise InvalidParams(f"{name[:64]}: unknown parameter{similar(name, names)}")
        if len(request.query.getall(name)) > 1:
            raise InvalidParams(f"{name}: given twice")


class PresentedSecret(NamedTuple):
    """The credentials in one header, or in a WebSocket's token."""

    scheme: Scheme
    secret: str
    user: str = ""


def presented_secrets(request: web.Request, *, socket: bool) -> list[PresentedSecret]:
    """Return what a request shows: a WebSocket's ``?token=`` alone, else its headers.

    A browser's script can set no header of a WebSocket. Elsewhere a key in a URL would open the
    door to whoever reads a log or a history. Raises ``BadRequest`` for one that is there twice.
    """
    headers = request.headers
    shown = _parse_headers(
        sole_value(hdrs.AUTHORIZATION, headers.getall(hdrs.AUTHORIZATION, ())),
        sole_value(API_KEY, headers.getall(API_KEY, ())),
    )
    if socket and is_socket(request):
        token = sole_value("token", request.query.getall("token", ()))
        if token:
            return [PresentedSecret("token", token)]
    return shown


def _parse_headers(authorization: str, key: str) -> list[PresentedSecret]:
    """Return the credentials in each of two headers: a proxy may use one of them itself."""
    found = []
    scheme, _, value = authorization.partition(" ")
    scheme, value = scheme.lower(), value.strip()
    if scheme == "bearer" and value:
        found.append(PresentedSecret("bearer", value))
    elif scheme == "basic":
        user, secret = _parse_basic(value)
        if secret:
            found.append(PresentedSecret("basic", secret, user))
    if key:
        found.append(PresentedSecret("key", key))
    return found


def _parse_basic(credentials: str) -> tuple[str, str]:
    """Return user and password of a base64-encoded pair, both empty if it is invalid."""
    try:
        pair = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, ValueError):  # a wrong encoding of text is a ValueError
        return "", ""
    user, _, password = pair.partition(":")
    return user, password
