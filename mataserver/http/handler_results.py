"""Validation of what a handler returned, before it is sent."""

from __future__ import annotations

from aiohttp import web
from aiohttp.payload import Payload

from mataserver.contract.routes import header_problem
from mataserver.http.sockets import ACCEPTED


def require_response(response: object, request: web.Request) -> web.StreamResponse:
    """Return a handler's result, or the WebSocket that the handler accepted.

    Raises ``TypeError`` or ``ValueError`` if aiohttp could not send it: the client would be
    disconnected without an answer.
    """
    if isinstance(response, web.StreamResponse):
        if not response.prepared:
            _check_head(response)
        return response
    if response is None and ACCEPTED in request:
        return request[ACCEPTED]
    name = type(response).__name__
    raise TypeError(f"its handler returned {name}, not a response, as ctx.http.respond makes one")


def _check_head(response: web.StreamResponse) -> None:
    """Raise ``ValueError`` for a status or a header that HTTP does not have."""
    if not 200 <= response.status <= 999:
        raise ValueError(f"its handler returned the status {response.status}")
    problem = header_problem(response.headers)
    if problem:
        raise ValueError(f"its handler returned a response whose {problem}")


def body_size(response: web.StreamResponse) -> int:
    """Return the size of an answer that is in memory completely, else 0."""
    body = response.body if isinstance(response, web.Response) else None
    if isinstance(body, Payload):
        return body.size or 0
    return 0 if body is None else len(body)
