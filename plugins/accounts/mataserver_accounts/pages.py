"""What the routes of users and keys share: pages of lists, and who may see whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mataserver import PRINCIPAL, InvalidParams, MataError, check_query

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver import Principal

JSON = "application/json"
MAX_BODY = 65_536
"""Bytes of any body here."""
MAX_LIMIT = 1_000
_MAX_OFFSET = 2**31 - 1
PARAMETERS: dict[str, tuple[Any, bool, str]] = {
    "limit": (int, False, f"How many at most, 1 to {MAX_LIMIT} [100]."),
    "offset": (int, False, "How many to leave out first [0]."),
}


class Forbidden(MataError):
    """403: the caller may not do this."""

    status = 403


class Page(NamedTuple):
    """A part of a list."""

    limit: int
    offset: int


def page_of(request: web.Request) -> Page:
    """Return which part of a list is asked for. Raises ``InvalidParams``, for other names too."""
    check_query(request, PARAMETERS)
    return Page(
        _number(request, "limit", 100, 1, MAX_LIMIT), _number(request, "offset", 0, 0, _MAX_OFFSET)
    )


def _number(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 11 and least <= int(text) <= most):
        raise InvalidParams(f"{name}: must be a number from {least} to {most}")
    return int(text)


def caller(request: web.Request) -> Principal:
    """Return the caller; every route here requires one."""
    principal = request[PRINCIPAL]
    assert principal is not None  # noqa: S101 - for the type checker: the server saw to it
    return principal


def is_administrator(principal: Principal) -> bool:
    """Whether a principal may see and change what is not its own."""
    return principal.may("admin")
