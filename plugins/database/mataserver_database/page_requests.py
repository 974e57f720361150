"""Which page of a list a request asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from msgspec import Meta

from mataserver import InvalidParams, check_query

if TYPE_CHECKING:
    from aiohttp import web

MAX_LIMIT = 1_000
_MAX_OFFSET = 2**31 - 1
CURSOR: tuple[Any, bool, str] = (
    Annotated[str, Meta(min_length=1)],
    False,
    "The `next_cursor` of the page before: continues behind it, also while the list changes.",
)
PARAMETERS: dict[str, tuple[Any, bool, str]] = {
    "limit": (
        Annotated[int, Meta(ge=1, le=MAX_LIMIT)],
        False,
        f"How many at most, 1 to {MAX_LIMIT} [100].",
    ),
    "offset": (
        Annotated[int, Meta(ge=0, le=_MAX_OFFSET)],
        False,
        "How many to leave out first [0].",
    ),
    "cursor": CURSOR,
}


class Page(NamedTuple):
    """A page of a list: at most ``limit`` rows, None for all, from a number or behind a cursor."""

    limit: int | None = None
    offset: int = 0
    cursor: str | None = None


EVERYTHING = Page()


def page_of(request: web.Request) -> Page:
    """Return the requested page of a list. Raises ``InvalidParams``, for other names too."""
    check_query(request, PARAMETERS)
    return Page(
        _number(request, "limit", 100, 1, MAX_LIMIT),
        _number(request, "offset", 0, 0, _MAX_OFFSET),
        cursor_of(request),
    )


def cursor_of(request: web.Request) -> str | None:
    """Return the cursor of a request. Raises ``InvalidParams`` for one beside an ``offset``."""
    if "cursor" in request.query and "offset" in request.query:
        raise InvalidParams("cursor: cannot be combined with offset")
    return request.query.get("cursor")


def _number(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 11 and least <= int(text) <= most):
        raise InvalidParams(f"{name}: must be a number from {least} to {most}")
    return int(text)
