"""Who may ask: Bearer tokens, compared in constant time."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def bearer(request: web.Request) -> str | None:
    """Return the token of ``Authorization: Bearer``, or None."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and token else None


def check(request: web.Request, state: State) -> None:
    """Raise ``Unauthorized`` or ``Forbidden`` unless the request carries an accepted key."""
    if state.settings.auth_mode == "none":
        return
    token = bearer(request)
    if token is None:
        raise Unauthorized("Missing Authorization header")
    if not state.keys.accepts(token):
        raise Forbidden("Invalid API key")


def check_socket(request: web.Request, state: State) -> bool:
    """Whether a WebSocket request carries an accepted key, as ``?token=`` or as a header."""
    if state.settings.auth_mode == "none":
        return True
    token = request.query.get("token") or bearer(request)
    return token is not None and state.keys.accepts(token)
