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

NORMAL, GOING_AWAY = 1000, 1001
MAX_REASON_BYTES = 123
"""Bytes; a control frame has 125, and the code takes two (RFC 6455, section 5.5)."""
CLOSE_TIMEOUT = 5.0
"""Seconds that a peer has to confirm the close."""
_CLOSE_TYPES = frozenset({WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR})
_CONTENT_TYPES = frozenset({WSMsgType.TEXT, WSMsgType.BINARY})


class SocketRelay:
    """Relays messages, pings included, until one side closes; then closes the other the same way.

    A side that does not read blocks messages from the other, for at most ``timeout`` seconds.
    Neither side may answer pings or a close frame itself: that of ``near`` is answered when ``far``
    has answered it. ``sizes`` are the bytes of the messages of ``near`` and of ``far``; ``is_cut``
    says that ``far`` ended first, without a close frame.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self.sizes = [0, 0]
        self.is_cut = False
        self._timeout = timeout
        self._closing: asyncio.Future[tuple[int | None, str]] = (
            asyncio.get_running_loop().create_future()
        )

    def close(self, code: int | None, reason: str = "") -> None:
        """Close both sides, unless they are being closed already."""
        if not self._closing.done():
            self._closing.set_result((code, reason))

    async def run(self, near: web.WebSocketResponse, far: aiohttp.ClientWebSocketResponse) -> None:
        """Relay between two sides; return once both are closed."""
        pumps = [
            asyncio.ensure_future(self._pump(near, far, 0)),
            asyncio.ensure_future(self._pump(far, near, 1)),
        ]
        code: int | None = GOING_AWAY
        reason = ""
        try:
            code, reason = await self._closing
            if near.close_code is not None:
                # Its pump still reads: after a cancelled read, aiohttp waits for no close frame.
                await close_side(far, code, reason)
                code, reason = NORMAL, ""
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            # Concurrently: a client that does not read must not delay closing the other side.
            await asyncio.gather(close_side(near, code, reason), close_side(far, code, reason))

    async def _pump(self, source: Side, sink: Side, index: int) -> None:
        """Relay one side's messages; then close as it was closed."""
        try:
            while (message := await source.receive()).type not in _CLOSE_TYPES:
                given = message.data
                data = given.encode() if isinstance(given, str) else bytes(given)
                if message.type in _CONTENT_TYPES:
                    self.sizes[index] += len(data)
                async with asyncio.timeout(self._timeout):
                    await sink.send_frame(data, message.type)
            if message.type is WSMsgType.CLOSE:
                self.close(message.data, message.extra or "")
                return
            self._end_first(is_far=bool(index))
            if message.type is WSMsgType.ERROR:  # else it is 1000, also without a close frame
                self.close(source.close_code)
        except ConnectionError:
            if index == 0:  # far's own pump knows how it ended, unless near does not read
                await asyncio.wait((self._closing,), timeout=CLOSE_TIMEOUT)
                self._end_first(is_far=True)
        finally:
            self.close(GOING_AWAY)

    def _end_first(self, *, is_far: bool) -> None:
        """Note that a side ended without a close frame, unless both are being closed already."""
        self.is_cut |= is_far and not self._closing.done()


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
