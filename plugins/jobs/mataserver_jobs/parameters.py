"""The query parameters and headers of the routes: what they may be, and how they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from mataserver import InvalidParams
from mataserver_database import CURSOR
from mataserver_jobs.kinds import KIND_NAME
from mataserver_jobs.rows import OPEN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp import web

STATES = ("queued", "running", "done", "failed", "cancelled")
MAX_LIMIT = 1000
MAX_OFFSET = 2**53
MAX_KEY = 200
KEY = "Idempotency-Key"
KEY_HEADER: dict[str, tuple[Any, bool, str]] = {
    KEY: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=MAX_KEY,
                pattern=r"^[\x00-\x7f]*\Z",
                description="characters of ASCII",
            ),
        ],
        False,
        "One key is one job.",
    )
}
LOG_BYTES = 65_536
MAX_LOG_BYTES = 1_000_000


def _words(options: Sequence[str]) -> Any:
    """Return the type of a query parameter that ``chosen`` reads."""
    one = f"({'|'.join(options)})?"
    told = f"some of {', '.join(options)}, with commas between them"
    return Annotated[str, Meta(pattern=rf"^{one}(,{one})*\Z", description=told)]


PAGES: dict[str, tuple[Any, bool, str]] = {
    "kind": (
        Annotated[
            str, Meta(pattern=rf"^{KIND_NAME.pattern}\Z", description="the name of a kind of job")
        ],
        False,
        "Only jobs of this kind.",
    ),
    "state": (_words(STATES), False, "Only jobs in these states, with commas between."),
    "limit": (
        Annotated[int, Meta(ge=1, le=MAX_LIMIT)],
        False,
        f"How many at most, 1 to {MAX_LIMIT}; 100 if it is left out.",
    ),
    "offset": (
        Annotated[int, Meta(ge=0, le=MAX_OFFSET)],
        False,
        "How many of the newest are skipped.",
    ),
    "cursor": CURSOR,
    "omit": (
        _words(OPEN),
        False,
        "Fields left out of each job: spec, result, or both with a comma.",
    ),
}
LOG: dict[str, tuple[Any, bool, str]] = {
    "bytes": (
        Annotated[int, Meta(ge=1, le=MAX_LOG_BYTES)],
        False,
        f"How much of its end, {LOG_BYTES} if left out.",
    )
}


def idempotency_key(request: web.Request) -> str | None:
    """Return the idempotency key of a request. Raises ``InvalidParams``."""
    key = request.headers.get(KEY)
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isascii()):
        raise InvalidParams(f"{KEY}: expected 1 to {MAX_KEY} ASCII characters")
    return key


def query_and(request: web.Request, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a query and a body's fields ask together; an empty text asks nothing.

    Raises ``InvalidParams`` for a name with a value in both: one of them would be ignored.
    """
    query = {name: text for name, text in request.query.items() if text}
    given = {name: value for name, value in fields.items() if value != ""}
    for name in query.keys() & given.keys():
        raise InvalidParams(f"{name}: given twice, in the query and in the body")
    return query | given


def chosen(request: web.Request, name: str, options: Sequence[str]) -> list[str]:
    """Return the words of a query parameter, between commas. Raises ``InvalidParams``."""
    words = [each for each in request.query.get(name, "").split(",") if each]
    if wrong := [each for each in words if each not in options]:
        raise InvalidParams(f"{name}: {wrong[0][:32]!r} is none of {', '.join(options)}")
    return words


def number(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    """Return a query parameter. Raises ``InvalidParams`` unless it is within its range."""
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and least <= int(text) <= most):
        raise InvalidParams(f"{name}: expected an integer of {least} to {most}")
    return int(text)
