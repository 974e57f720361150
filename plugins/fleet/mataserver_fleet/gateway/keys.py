"""The key that a consumer shows, wherever it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import sole_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp import web


def key_of_request(request: web.Request) -> str:
    """Return the key that a request shows, empty where it shows none.

    Raises ``BadRequest`` for one that is there twice.
    """
    headers = request.headers
    given = {name: headers.getall(name, ()) for name in ("apikey", "authorization")}
    if key := key_in_fields(given):
        return key
    if headers.get("Upgrade", "").lower() == "websocket":
        # A browser's script can set no header of one.
        return sole_value("token", request.query.getall("token", ()))
    return ""


def key_in_fields(given: Mapping[str, Sequence[str]]) -> str:
    """Return the key among header fields or metadata, by lower name; empty where there is none.

    Raises ``BadRequest`` for one that is there twice.
    """
    key, shown = (sole_value(name, given.get(name, ())) for name in ("apikey", "authorization"))
    scheme, _, value = shown.partition(" ")
    return key or (value.strip() if scheme.lower() == "bearer" else "")
