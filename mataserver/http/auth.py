"""Who may ask: a key in a header, compared in constant time.

``Authorization: Bearer KEY``, ``X-API-Key: KEY``, or ``Authorization: Basic`` with the key as the
password (RFC 7617), which is what a URL with a password and many an older client can send.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from aiohttp import hdrs

from mataserver.errors import MataError

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.http.routing import State

API_KEY = "X-API-Key"
INVALID = "Invalid API key"


class Unauthorized(MataError):
    """401: no credentials, or none that can be read."""

    status = 401


class Forbidden(MataError):
    """403: a well-formed key that is not accepted."""

    status = 403


def of_header(authorization: str) -> str | None:
    """Return the key that an ``Authorization`` header carries, or None."""
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value or None
    return _password(value) if scheme.lower() == "basic" else None


def _password(credentials: str) -> str | None:
    """Return the password of ``user:password`` in base64, or None for what is no such pair."""
    try:
        pair = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, ValueError):  # a wrong encoding of text is a ValueError
        return None
    return pair.partition(":")[2] or None


def shown(authorization: str, api_key: str | None) -> list[str]:
    """Return the keys that two headers carry: a proxy may need one of them for itself."""
    key = of_header(authorization)
    found = [] if key is None else [key]
    if api_key:
        found.append(api_key)
    return found


def of_request(request: web.Request) -> list[str]:
    """Return the keys that a request shows: a WebSocket's also as ``?token=``, and that first.

    A browser's script can set no header of a WebSocket.
    """
    headers = request.headers
    found = shown(headers.get(hdrs.AUTHORIZATION, ""), headers.get(API_KEY))
    if headers.get(hdrs.UPGRADE, "").lower() == "websocket" and (
        token := request.query.get("token")
    ):
        found.insert(0, token)
    return found


def check(keys: list[str], state: State) -> None:
    """Raise ``Unauthorized`` without a key, ``Forbidden`` unless one of them is accepted."""
    if state.settings.auth_mode == "none":
        return
    for key in keys:
        if state.keys.accepts(key):
            return
    if not keys:
        raise Unauthorized("Missing Authorization header")
    raise Forbidden(INVALID)


def accepted(request: web.Request, state: State) -> bool:
    """Whether a request shows an accepted key, or needs none."""
    return state.settings.auth_mode == "none" or any(map(state.keys.accepts, of_request(request)))
