"""The headers that every answer has, also one that its handler sends itself."""

from __future__ import annotations

import re
import time
from random import getrandbits

from aiohttp import web

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
"""Identifies a request in logs, answers and other front-ends."""
BEGUN: web.RequestKey[float] = web.RequestKey("begun", float)
"""When a request arrived, in seconds of ``time.perf_counter``."""
_VALID_ID = re.compile(r"[\w.:@/+=-]{1,128}", re.ASCII)


def new_request_id() -> str:
    """Return a new request id."""
    return f"{getrandbits(64):016x}"


def identify(request: web.Request) -> None:
    """Note the request's id: the client's, or a new one."""
    request_id = request.headers.get("X-Request-Id")
    if request_id is None or not _VALID_ID.fullmatch(request_id):
        request_id = new_request_id()
    request[REQUEST_ID] = request_id


def complete(request: web.Request, response: web.StreamResponse) -> None:
    """Add them to an answer without them: one that its handler sends, such as a stream or a 101."""
    headers = response.headers
    if "X-Request-Id" not in headers and REQUEST_ID in request:
        headers["X-Request-Id"] = request[REQUEST_ID]
    if "Server-Timing" not in headers and BEGUN in request:
        duration = time.perf_counter() - request[BEGUN]
        headers["Server-Timing"] = f"total;dur={duration * 1e3:.3f}"
