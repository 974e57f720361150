"""The keys that a consumer shows, wherever they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import sole_value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp import web


def keys_of_request(request: web.Request) -> list[str]:
    """Return the keys that a request shows.

    Raises ``BadRequest`` for a field that is there twice.
    """
    headers = request.headers
    shown = keys_in_fields({name: headers.getall(name, ()) for name in ("apikey", "authorization")})
    if headers.get("Upgrade", "").lower() == "websocket":
        # A browser's script can set no header of one.
        token = sole_value("token", request.query.getall("token", ()))
        shown += [token] if token else []
    return shown


def keys_in_fields(given: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the keys among header fields or metadata, by lower name.

    Raises ``BadRequest`` for a field that is there twice.
    """
    key, shown = (sole_value(name, given.get(name, ())) for name in ("apikey", "authorization"))
    scheme, _, value = shown.partition(" ")
    bearer = value.strip() if scheme.lower() == "bearer" else ""
    return [each for each in (key, bearer) if each]
