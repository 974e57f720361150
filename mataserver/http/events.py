"""Server-Sent Events: the progress of a request, then its result.

Each event has one line of JSON as its data. An inference has ``token`` (``{"text": ...}``), a pull
has ``waiting`` and ``progress``; the last one is ``result`` or ``error`` (``{"detail": ...}``, with
``retry_after`` in seconds where a retry may succeed, and the figures of a 507). The format is that
of the HTML standard, section 9.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web

from mataserver.contract.routes import LastEvent
from mataserver.errors import MataError
from mataserver.http import accept_header, codec
from mataserver.http.common_headers import REQUEST_ID
from mataserver.http.error_responses import figures
from mataserver.http.middleware import CLIENT_GONE, METRICS_STATUS
from mataserver.http.revocation import RevocableWait, watch_revocation

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from mataserver.contract.handles import Encoded
    from mataserver.contract.routes import Event

CONTENT_TYPE = accept_header.EVENT_STREAM
T = TypeVar("T")
_BREAK = re.compile(r"[\r\n]")


def is_requested(request: web.Request) -> bool:
    """Whether the client accepts events."""
    return accept_header.prefers_events(request.headers.get("Accept", ""))


def error_event(error: MataError) -> bytes:
    """Return the last event of a failed request. What else would be a header is a field of it."""
    retry = {} if error.retry_seconds is None else {"retry_after": error.retry_seconds}
    return event("error", {"detail": error.detail, **figures(error), **retry})


async def send(
    request: web.Request,
    items: AsyncGenerator[T],
    encoded: Callable[[T], bytes],
    patience: float,
    *,
    render_error: Callable[[MataError], bytes] = error_event,
    status: int = 200,
) -> web.StreamResponse:
    """Answer with the events of ``items``; a failure before the first one is an ordinary error.

    A later one is sent as the event that ``render_error`` makes of it. The event that ends a stream
    is a ``LastEvent``. If the client disconnects before it, or reads nothing for ``patience``
    seconds, the model stops between two pieces. Revoked credentials are a failure, too.
    """
    wait, begun = RevocableWait(), time.perf_counter()

    async def next_event() -> bytes | None:
        wait.check()  # a generator that never waits is not interrupted
        try:
            return encoded(await wait.for_result(anext(items)))
        except StopAsyncIteration:
            return None

    with watch_revocation(request, wait.end):
        async with contextlib.aclosing(items):
            first = await next_event()  # None: there is no event
            headers = {
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
                "X-Request-Id": request[REQUEST_ID],
                "Server-Timing": f"first;dur={(time.perf_counter() - begun) * 1e3:.3f}",
            }
            response = web.StreamResponse(status=status, headers=headers)
            response.content_type, response.charset = CONTENT_TYPE, "utf-8"
            await response.prepare(request)
            try:
                await _send_all(request, response, first, next_event, render_error, patience)
                await response.write_eof()
            except (ConnectionError, TimeoutError):
                if METRICS_STATUS not in request:
                    request[METRICS_STATUS] = CLIENT_GONE
                if request.transport is not None:
                    request.transport.abort()  # it is gone, or does not read: stops the model
        return response


async def _send_all(
    request: web.Request,
    response: web.StreamResponse,
    first: bytes | None,
    next_event: Callable[[], Awaitable[bytes | None]],
    render_error: Callable[[MataError], bytes],
    patience: float,
) -> None:
    """Send every event. A client may close first after the last one: that is success."""
    current = first
    try:
        while current is not None:
            await _send(response, current, patience)
            if isinstance(current, LastEvent):
                request[METRICS_STATUS] = response.status
            current = await next_event()
    except MataError as error:
        await _send(response, render_error(error), patience)
        request[METRICS_STATUS] = response.status


async def _send(response: web.StreamResponse, event: bytes, patience: float) -> None:
    async with asyncio.timeout(patience):
        await response.write(event)


def encode(item: Event) -> bytes:
    """Return an event of a service. Raises as ``event`` does."""
    return item if isinstance(item, bytes) else event(*item)


def of_inference(item: str | Encoded) -> bytes:
    """Return the event of a piece of text, or of the result."""
    if isinstance(item, str):
        return event("token", {"text": item})
    return LastEvent(event("result", item.body))


def event(kind: str, data: object, identity: str = "") -> bytes:
    """Return one encoded event; ``identity`` is its id, omitted if empty.

    Raises ``ValueError`` for a name or an id of several lines: the second would be another field.
    """
    if _BREAK.search(f"{kind}{identity}"):
        raise ValueError(f"an event's name and id are one line each: {kind!r}, {identity!r}")
    head = f"id: {identity}\n" if identity else ""
    return f"{head}event: {kind}\ndata: ".encode() + codec.encode(data) + b"\n\n"
