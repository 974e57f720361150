"""Warnings about requests that are answered all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from mataserver.http import unknown_fields
from mataserver.suggestion import similar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver.contract.routes import Route

HEADER = "X-Warning"
WARNING: web.RequestKey[str] = web.RequestKey("warning", str)
"""The warning, which the answer carries unless it is an error, and the log."""
_EMPTY_BODY = len("{}")
"""Bytes of a body that says nothing: clients send one with every request that may have one."""


def warn(request: web.Request, sentence: str) -> None:
    """Warn the sender of a request, also of what else was wrong; "" is no warning."""
    if sentence:
        request[WARNING] = unknown_fields.joined([request.get(WARNING, ""), sentence])


def warn_of_ignored(request: web.Request, route: Route) -> None:
    """Warn of parameters of the query that a documented route does not have.

    Open routes ignore them silently: monitors and browsers add what keeps caches away. A route that
    says no more of itself than a summary may well read what it does not describe.
    """
    if route.public or route.socket or not _is_described(route):
        return
    if request.rel_url.raw_query_string and not route.checks_query:
        unknown = [name for name in request.query if name not in route.parameters]
        named, others = unknown[: unknown_fields.MAX_NAMED], unknown[unknown_fields.MAX_NAMED :]
        # The others are counted: to look for a similar name takes long.
        warn(request, unknown_fields.joined([*(_sentence(name, route) for name in named), *others]))


def warn_of_body(request: web.Request, route: Route) -> None:
    """Warn of the body of a request that was answered by a route without one, unless it was read.

    A route may read what it does not describe.
    """
    if (
        not (route.public or route.socket or route.request)
        and _is_described(route)
        and _has_body(request)
        and not request.content.at_eof()
    ):
        warn(request, "the body: ignored, this route takes none")


def warn_of_fields(request: web.Request, route: Route, fields: Mapping[str, str]) -> None:
    """Warn of a form's fields that the route's documented form does not have, but empty ones."""
    known = {
        name
        for body in route.request
        if body.content_type == "multipart/form-data"
        for name in getattr(body.schema, "__struct_encode_fields__", ())
    }
    if known:
        unknown = [name for name, text in fields.items() if text and name not in known]
        said = (f"{unknown_fields.printable(name)}: unknown field, ignored" for name in unknown)
        warn(request, unknown_fields.joined(said))


def ignored_in_query(name: str) -> str:
    """Return the sentence about a parameter that the body has a field for."""
    return f"{unknown_fields.printable(name)}: ignored in the query; write it into the body"


def _is_described(route: Route) -> bool:
    more = route.parameters or route.request or route.response or route.status != 200
    return bool(route.summary and more)


def _sentence(name: str, route: Route) -> str:
    if any(name in getattr(body.schema, "__struct_encode_fields__", ()) for body in route.request):
        return ignored_in_query(name)
    said = f"{unknown_fields.printable(name)}: unknown parameter, ignored"
    return said + similar(name, route.parameters)


def _has_body(request: web.Request) -> bool:
    length = request.content_length
    return request.body_exists and (length is None or length > _EMPTY_BODY)
