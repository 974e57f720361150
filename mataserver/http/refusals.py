"""The answers that errors are: the API's own form of them, and of aiohttp's."""

from __future__ import annotations

from aiohttp import web

from mataserver.errors import MataError
from mataserver.http import codec

_UNREAD = frozenset({408, 413, 417})  # the rest of the body is not waited for


def error_response(error: MataError) -> web.Response:
    """Answer ``{"detail": ...}`` with the error's status."""
    headers = {}
    if error.status in _UNREAD:
        headers["Connection"] = "close"
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(
        body=codec.encode({"detail": error.detail}),
        status=error.status,
        content_type=codec.JSON,
        headers=headers,
    )


def unserved(error: web.HTTPException) -> web.Response:
    """Give aiohttp's own errors (404, 405, 413 ...) the API's form."""
    details = {404: "Not found", 405: "Method not allowed", 413: "The body is over the limit"}
    response = error_response(
        MataError(details.get(error.status, error.reason), status=error.status)
    )
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response
