"""The form of errors on the routes of other protocols: their status stays, their form changes.

Handlers raise what they raise everywhere, and so do the key check and the router.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web
from msgspec import Struct

from mataserver.http import codec
from mataserver.http.routing import ROUTE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver.contract.routes import ErrorForm
    from mataserver.http.routing import Expect


def expecting(expect: Expect, forms: Mapping[str, ErrorForm]) -> Expect:
    """Wrap what answers ``Expect``, which is asked before any middleware."""

    async def wrapped(request: web.Request) -> web.StreamResponse | None:
        response = await expect(request)
        return None if response is None else render(request, response, forms)

    return wrapped


def render(
    request: web.Request, response: web.StreamResponse, forms: Mapping[str, ErrorForm]
) -> web.StreamResponse:
    """Return an error in the form of the route, else of the path's protocol."""
    route = request.get(ROUTE)
    form = (route and route.error_form) or _form(request.path, forms)
    if form is None or not isinstance(response, web.Response) or response.prepared:
        return response
    body = response.body
    try:
        detail = msgspec.json.decode(body if isinstance(body, bytes) else b"", type=_Problem).detail
    except msgspec.DecodeError:
        return response  # it has a form of its own, such as that of a probe
    response.body = codec.encode(form(response.status, detail))
    return response


class _Problem(Struct, forbid_unknown_fields=True):
    detail: str


def _form(path: str, forms: Mapping[str, ErrorForm]) -> ErrorForm | None:
    """Return the form of the longest prefix; one that ends in no slash is a path of its own too."""
    fitting = [each for each in forms if path == each or path.startswith(each.rstrip("/") + "/")]
    return forms[max(fitting, key=len)] if fitting else None
