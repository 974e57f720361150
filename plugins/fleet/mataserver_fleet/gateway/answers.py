"""What the gateway answers itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from mataserver_fleet.gateway import headers
from mataserver_fleet.gateway.grants import Unknown

if TYPE_CHECKING:
    from mataserver import MataError

_HANG_UP = frozenset({408, 411, 413})
"""Statuses after which the connection is not used again."""


def problem(error: MataError) -> web.Response:
    """Return the answer for an error, in the protocol's form."""
    fields = {}
    if error.retry_after is not None:
        fields["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == Unknown.status:
        fields["WWW-Authenticate"] = "Bearer"
    response = json({"error": error.detail}, error.status, fields)
    if error.status in _HANG_UP:
        response.force_close()
    return response


def json(value: object, status: int = 200, fields: dict[str, str] | None = None) -> web.Response:
    """Return an answer of JSON."""
    body = msgspec.json.encode(value)
    return web.Response(body=body, status=status, content_type=headers.JSON, headers=fields)
