"""Connects two WebSockets: relays messages both ways until one of them closes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeAlias

import aiohttp
from aiohttp import WSMsgType

if TYPE_CHECKING:
    from aiohttp import web

    Side: TypeAlias = web.WebSocketResponse | aiohttp.ClientWebSocketResponse

GOING_AWAY = 1001
MAX_REASON_BYTES = 123
"""Bytes; a control frame has 125, and the code takes two (RFC 6455, section 5.5)."""
CLOSE_TIMEOUT = 5.0
"""Seconds that a peer has to confirm the close."""
_CLOSE_TYPES = frozenset({WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR})


async def relay_messages(near: web.WebSocketResponse, far: aiohttp.ClientWebSocketResponse) -> None:
    """Relay messages, pings included, until one side closes; then close the other the same way.

    A side that does not read blocks messages from the other. Neither side may answer pings itself.
    """
    pumps = [asyncio.ensure_future(_pump(near, far)), asyncio.ensure_future(_pump(far, near))]
    code: int | None = GOING_AWAY
    reason = ""
    try:
        done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        code, reason = next((each.result() for each in done if not each.exception()), (code, ""))
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        # Concurrently: a client that does not read must not delay closing the other side.
        await asyncio.gather(close_side(near, code, reason), close_side(far, code, reason))


async def close_side(side: Side, code: int | None, reason: str) -> None:
    """Close a side within a few seconds; a code that must not be sent becomes 1001."""
    is_sendable = code is not None and (1000 <= code <= 1014 or 3000 <= code <= 4999)
    reserved = {1004, 1005, 1006}
    sent = code if code is not None and is_sendable and code not in reserved else GOING_AWAY
    with contextlib.suppress(TimeoutError, OSError, aiohttp.ClientError):
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await side.close(code=sent, message=close_reason(reason))


def close_reason(reason: str) -> bytes:
    """Truncate a reason to what a close frame holds, at a character boundary as clients require."""
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore").encode()


async def _pump(source: Side, sink: Side) -> tuple[int | None, str]:
    """Relay one side's messages; return how it was closed."""
    while True:
        message = await source.receive()
        if message.type is WSMsgType.CLOSE:
            return message.data, message.extra or ""
        if message.type in _CLOSE_TYPES:
            return source.close_code, ""
        data = message.data.encode() if isinstance(message.data, str) else bytes(message.data)
        await sink.send_frame(data, message.type)
