"""What the routes of users and keys share: who may see whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import PRINCIPAL, MataError

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver import Principal

JSON = "application/json"
MAX_BODY = 65_536
"""Bytes of any body here."""


class Forbidden(MataError):
    """403: the caller may not do this."""

    status = 403


def caller(request: web.Request) -> Principal:
    """Return the caller; every route here requires one."""
    principal = request[PRINCIPAL]
    assert principal is not None  # noqa: S101 - for the type checker: the server saw to it
    return principal


def caller_text(request: web.Request) -> str:
    """Return how the log names the caller."""
    principal = caller(request)
    return f"{principal.name} ({principal.id})"


def is_administrator(principal: Principal) -> bool:
    """Whether a principal may see and change what is not its own."""
    return principal.may("admin")
