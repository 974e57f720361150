"""The headers that every answer has; to the 101 of a WebSocket no middleware could add them."""

from __future__ import annotations

import time
from random import getrandbits

from aiohttp import web

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
"""Identifies a request in logs, answers and other front-ends."""
UPGRADE_BEGUN: web.RequestKey[float] = web.RequestKey("upgrade_begun", float)
"""When a request for a WebSocket arrived, in seconds of ``time.perf_counter``."""


def new_request_id() -> str:
    """Return a new request id."""
    return f"{getrandbits(64):016x}"


def complete_upgrade(request: web.Request, response: web.StreamResponse) -> None:
    """Add them to the answer that accepts a WebSocket."""
    if REQUEST_ID in request:
        response.headers["X-Request-Id"] = request[REQUEST_ID]
    if UPGRADE_BEGUN in request:
        duration = time.perf_counter() - request[UPGRADE_BEGUN]
        response.headers["Server-Timing"] = f"total;dur={duration * 1e3:.3f}"
