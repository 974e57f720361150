"""The headers that every answer has, also one that its handler sends itself."""

from __future__ import annotations

import re
import time
from random import getrandbits

from aiohttp import hdrs, web

from mataserver.http.request_warnings import HEADER, WARNING

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
"""Identifies a request in logs, answers and other front-ends."""
BEGUN: web.RequestKey[float] = web.RequestKey("begun", float)
"""When a request arrived, in seconds of ``time.perf_counter``."""
PRIVATE: web.RequestKey[bool] = web.RequestKey("private", bool)
"""Set unless the route is open: what it answers depends on who asks."""
_SAFE = frozenset({"GET", "HEAD"})
"""Methods whose answers a cache may store unasked."""
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


def forbid_storing(request: web.Request, response: web.StreamResponse) -> None:
    """Keep a private answer out of caches, unless its handler says otherwise.

    A shared cache may store it: it takes only ``Authorization`` for a key (RFC 9111, section 3.5),
    neither ``X-API-Key`` nor a cookie.
    """
    if (
        request.method in _SAFE
        and PRIVATE in request
        and hdrs.CACHE_CONTROL not in response.headers
    ):
        response.headers[hdrs.CACHE_CONTROL] = "no-store"


def complete(request: web.Request, response: web.StreamResponse) -> None:
    """Add them to an answer without them: one that its handler sends, such as a stream or a 101."""
    forbid_storing(request, response)
    headers = response.headers
    if WARNING in request and response.status < 400:
        headers[HEADER] = request[WARNING]
    if "X-Request-Id" not in headers and REQUEST_ID in request:
        headers["X-Request-Id"] = request[REQUEST_ID]
    if "Server-Timing" not in headers and BEGUN in request:
        duration = time.perf_counter() - request[BEGUN]
        headers["Server-Timing"] = f"total;dur={duration * 1e3:.3f}"
