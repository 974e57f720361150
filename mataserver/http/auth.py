"""Who may ask: Bearer tokens, compared in constant time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs

from mataserver.errors import MataError

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.http.routing import State


class Unauthorized(MataError):
    """401: no credentials, or none that can be read."""

    status = 401


class Forbidden(MataError):
    """403: a well-formed key that is not accepted."""

    status = 403


def bearer(authorization: str) -> str | None:
    """Return the token of ``Authorization: Bearer``, or None."""
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and token else None


def authorization(request: web.Request) -> str:
    """Return what a request shows as its key: the header, or a WebSocket's ``?token=``.

    A browser's script can set no header of a WebSocket.
    """
    headers = request.headers
    if headers.get(hdrs.UPGRADE, "").lower() == "websocket" and "token" in request.query:
        return f"Bearer {request.query['token']}"
    return headers.get(hdrs.AUTHORIZATION, "")


def check(authorization: str, state: State) -> None:
    """Raise ``Unauthorized`` or ``Forbidden`` unless the header carries an accepted key."""
    if state.settings.auth_mode == "none":
        return
    token = bearer(authorization)
    if token is None:
        raise Unauthorized("Missing Authorization header")
    if not state.keys.accepts(token):
        raise Forbidden("Invalid API key")


def check_socket(request: web.Request, state: State) -> bool:
    """Whether a WebSocket request carries an accepted key, as ``?token=`` or as a header."""
    if state.settings.auth_mode == "none":
        return True
    token = request.query.get("token") or bearer(request.headers.get("Authorization", ""))
    return token is not None and state.keys.accepts(token)
