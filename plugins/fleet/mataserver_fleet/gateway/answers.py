"""Responses that the gateway makes itself."""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from mataserver import MataError
from mataserver_fleet.gateway import headers
from mataserver_fleet.gateway.grants import InvalidKey

LINGER_SECONDS = 2.0
"""Seconds for a client whose body does not arrive to read why."""
_CLOSING_STATUSES = frozenset({408, 411, 413})
"""Statuses after which the connection is not used again."""


class MethodNotAllowed(MataError):
    """405: a method that the route does not have; ``allowed`` are those that it has."""

    status = 405

    def __init__(self, *allowed: str) -> None:
        super().__init__(f"The allowed methods are {' and '.join(allowed)}")
        self.allowed = allowed


def check_method(method: str, *allowed: str) -> None:
    """Raise ``MethodNotAllowed`` for any other method; GET allows HEAD (RFC 9110, 9.1)."""
    if upstream_method(method) not in allowed:
        raise MethodNotAllowed(*allowed, *(("HEAD",) if "GET" in allowed else ()))


def upstream_method(method: str) -> str:
    """Return the method to send to a server: Tritons do not support HEAD."""
    return "GET" if method == "HEAD" else method


def linger(request: web.Request) -> None:
    """Close a connection after its client had time to read why: its body did not arrive."""
    if request.transport is not None:
        asyncio.get_running_loop().call_later(LINGER_SECONDS, request.transport.close)


def problem(error: MataError) -> web.Response:
    """Return the answer for an error, in the protocol's form."""
    fields = {}
    if error.retry_seconds is not None:
        fields["Retry-After"] = str(error.retry_seconds)
    if error.status == InvalidKey.status:
        fields["WWW-Authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        fields["Allow"] = ", ".join(error.allowed)
    response = json({"error": error.detail}, error.status, fields)
    if error.status in _CLOSING_STATUSES:
        response.force_close()
    return response


def json(value: object, status: int = 200, fields: dict[str, str] | None = None) -> web.Response:
    """Return an answer of JSON."""
    body = msgspec.json.encode(value)
    return web.Response(body=body, status=status, content_type=headers.JSON, headers=fields)
