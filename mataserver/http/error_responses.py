"""Conversion of errors to answers: in the API's own form, or that of another protocol.

Handlers, authentication and the router raise the same errors everywhere. On the routes of another
protocol an error keeps its status and changes its form.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from mataserver.errors import MataError, OutOfMemory
from mataserver.http import codec
from mataserver.http.routing import ROUTE
from mataserver.plugin_ends import ends_logged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver.contract.routes import ErrorForm

log = logging.getLogger("mataserver.http")

# The connection does not wait for the rest of the body.
_CLOSING_STATUSES = frozenset({408, 413, 417})
_KEPT_HEADERS = ("Allow", "Sec-WebSocket-Version")


class Problem(Struct):
    """Every error: one human-readable sentence."""

    detail: str


class MemoryProblem(Problem):
    """A 507: of a model that does not fit, which memory falls short, and by how much.

    ``device`` is "ram" or "cuda:0" and so on. Of ``limit_mb``, what the server may use there,
    ``free_mb`` would be free without all that can be evicted. In MB of 1e6 bytes.
    """

    device: str | UnsetType = UNSET
    needed_mb: float | UnsetType = UNSET
    free_mb: float | UnsetType = UNSET
    limit_mb: float | UnsetType = UNSET


class _OwnForm(MemoryProblem, forbid_unknown_fields=True):
    """One of these two, and nothing else."""


def error_response(error: MataError) -> web.Response:
    """Answer ``{"detail": ...}`` with the error's status, and the figures of a 507."""
    headers = {}
    if error.status in _CLOSING_STATUSES:
        headers["Connection"] = "close"
    if error.retry_seconds is not None:
        headers["Retry-After"] = str(error.retry_seconds)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(
        body=codec.encode({"detail": error.detail, **figures(error)}),
        status=error.status,
        content_type=codec.JSON,
        headers=headers,
    )


def figures(error: MataError) -> dict[str, Any]:
    """Return which memory falls short by how much, where that is why."""
    shortage = error.shortage if isinstance(error, OutOfMemory) else None
    return {} if shortage is None else msgspec.structs.asdict(shortage)


def as_api_error(error: web.HTTPException) -> web.Response:
    """Convert aiohttp's own errors (404, 405, 413 ...) to the API's form."""
    details = {404: "Not found", 405: "Method not allowed", 413: "The body is over the limit"}
    response = error_response(
        MataError(details.get(error.status, error.reason), status=error.status)
    )
    for name in _KEPT_HEADERS:
        if name in error.headers:
            response.headers[name] = error.headers[name]
    return response


def render(
    request: web.Request, response: web.StreamResponse, forms: Mapping[str, ErrorForm]
) -> web.StreamResponse:
    """Return an error in the form of the route, or else of the path's protocol."""
    route = request.get(ROUTE)
    form = (route and route.error_form) or _form_of_path(request.path, forms)
    if form is None or not isinstance(response, web.Response) or response.prepared:
        return response
    body = response.body
    try:
        detail = msgspec.json.decode(body if isinstance(body, bytes) else b"", type=_OwnForm).detail
    except msgspec.DecodeError:
        return response  # it has its own form, such as that of a probe
    told = "the form of errors %s failed: %s is told in the server's own"
    with ends_logged(log, told, _name_of(form), response.status):
        response.body = _body_of(form, response.status, detail)
    return response


def _body_of(form: ErrorForm, status: int, detail: str) -> bytes:
    """Return what a form makes of an error. Raises ``TypeError`` for a forgotten ``return``."""
    formed = form(status, detail)
    if formed is None:
        raise TypeError("it gave None, not the body of an error")
    return codec.encode(formed)


def _name_of(form: ErrorForm) -> str:
    """Return where a form is from: its module names the plugin, for a route's own form, too."""
    function = getattr(form, "func", form)  # of a ``functools.partial``
    function = function if hasattr(function, "__qualname__") else type(function)
    return f"{function.__module__}.{function.__qualname__}"


def _form_of_path(path: str, forms: Mapping[str, ErrorForm]) -> ErrorForm | None:
    """Return the form of the longest prefix; one without a final slash also matches as a path."""
    matching = [each for each in forms if path == each or path.startswith(each.rstrip("/") + "/")]
    return forms[max(matching, key=len)] if matching else None
