"""Server-Sent Events: what happens while a request runs, then its result.

Each event has one line of JSON as its data. An inference has ``token`` (``{"text": ...}``), a pull
has ``waiting`` and ``progress``; the last one is ``result`` or ``error`` (``{"detail": ...}``). The
format is that of the HTML standard, section 9.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from aiohttp import web

from mataserver.contract.routes import LastEvent
from mataserver.errors import MataError
from mataserver.http import accepting, codec
from mataserver.http.auth import PRINCIPAL
from mataserver.http.grants import GrantedTurns, held
from mataserver.http.middleware import COUNTED, LEFT
from mataserver.http.routing import REQUEST_ID

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from mataserver.contract.handles import Encoded

CONTENT_TYPE = accepting.EVENTS


def requested(request: web.Request) -> bool:
    """Whether the client asked for events."""
    return accepting.events(request.headers.get("Accept", ""))


async def respond(
    request: web.Request, items: AsyncGenerator[str | Encoded], patience: float
) -> web.StreamResponse:
    """Answer with the events of ``items``: see ``send``."""

    async def events() -> AsyncGenerator[bytes]:
        async with contextlib.aclosing(items):
            async for item in items:
                yield _event(item)

    return await send(request, events(), failed, patience)


def failed(error: MataError) -> bytes:
    """Return the last event of what has failed."""
    return event("error", {"detail": error.detail})


async def send(
    request: web.Request,
    events: AsyncGenerator[bytes],
    failed: Callable[[MataError], bytes],
    patience: float,
    status: int = 200,
) -> web.StreamResponse:
    """Answer with ``events``; a failure before the first one is an ordinary error.

    A later one becomes the event that ``failed`` makes of it. The event that ends a stream is a
    ``LastEvent``. A client that goes away before it, or reads nothing for ``patience`` seconds,
    stops the model between two pieces. When what was shown counts no more, that is a failure too.
    """
    turns = GrantedTurns()
    with held(request, request.get(PRINCIPAL), turns.end):
        return await _answer(request, events, turns, failed, patience, status)


async def _answer(
    request: web.Request,
    events: AsyncGenerator[bytes],
    turns: GrantedTurns,
    failed: Callable[[MataError], bytes],
    patience: float,
    status: int,
) -> web.StreamResponse:

    def following() -> Awaitable[bytes | None]:
        return turns.of(anext(events, None))

    begun = time.perf_counter()
    async with contextlib.aclosing(events):
        first = await turns.of(anext(events))
        headers = {
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            "X-Request-Id": request[REQUEST_ID],
            "Server-Timing": f"first;dur={(time.perf_counter() - begun) * 1e3:.3f}",
        }
        response = web.StreamResponse(status=status, headers=headers)
        response.content_type, response.charset = CONTENT_TYPE, "utf-8"
        await response.prepare(request)
        try:
            await _send_all(request, response, first, following, failed, patience)
            await response.write_eof()
        except (ConnectionError, TimeoutError):
            if COUNTED not in request:
                request[COUNTED] = LEFT
            if request.transport is not None:
                request.transport.abort()  # gone, or reads nothing: the model is freed
    return response


async def _send_all(
    request: web.Request,
    response: web.StreamResponse,
    first: bytes,
    following: Callable[[], Awaitable[bytes | None]],
    failed: Callable[[MataError], bytes],
    patience: float,
) -> None:
    """Send every event. A client that has the last one may close before we do: that is success."""
    told: bytes | None = first
    try:
        while told is not None:
            await _send(response, told, patience)
            if isinstance(told, LastEvent):
                request[COUNTED] = response.status
            told = await following()
    except MataError as error:
        await _send(response, failed(error), patience)
        request[COUNTED] = response.status


async def _send(response: web.StreamResponse, event: bytes, patience: float) -> None:
    async with asyncio.timeout(patience):
        await response.write(event)


def _event(item: str | Encoded) -> bytes:
    if isinstance(item, str):
        return event("token", {"text": item})
    return LastEvent(event("result", item.body))


def event(kind: str, data: object, identity: str = "") -> bytes:
    """Return one event, with an id of one line unless that is empty."""
    head = f"id: {identity}\n" if identity else ""
    return f"{head}event: {kind}\ndata: ".encode() + codec.encode(data) + b"\n\n"
