"""A socket that receives the results of a camera's session; its client sends no frames."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mataserver.contract.envelope import extended
from mataserver.http.stream_channel import PING_WINDOW, Channel, StreamError

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.http.stream_channel import StreamSettings
    from mataserver.serving.feeds.inferred_frame import InferredFrame
    from mataserver.serving.sessions import Session

NO_FRAMES = "the session has a camera: it takes no frames"


class Viewer(Channel):
    """One open socket of a session with a camera.

    One result waits for a client that reads slowly; a newer one replaces it, which ``dropped``
    counts. The notice of a loss waits behind it, until frames come again.
    """

    def __init__(
        self, settings: StreamSettings, session: Session, socket: web.WebSocketResponse
    ) -> None:
        super().__init__(settings, session, socket)
        self._waiting: InferredFrame | None = None
        self._warning: StreamError | None = None
        self._has_item = asyncio.Event()
        self._client_has_read = asyncio.Event()
        self._replaced = 0
        self._reset = False

    def show(self, inferred: InferredFrame) -> None:
        """Send a result, replacing a waiting one."""
        self._replaced += self._waiting is not None
        self._reset = self._reset or inferred.reset
        self._waiting, self._warning = inferred, None
        self._has_item.set()

    def warn(self, detail: str) -> None:
        """Notify the client that the camera was lost."""
        self._warning = StreamError(detail=detail)
        self._has_item.set()

    def _on_client_read(self) -> None:
        self._client_has_read.set()

    async def _on_binary(self, data: bytes) -> None:  # noqa: ARG002 - no frame is taken
        await self._send(StreamError(detail=NO_FRAMES))

    async def _work(self) -> None:
        while True:
            await self._answer(await self._message(await self._next()))

    async def _next(self) -> InferredFrame | StreamError:
        """Wait for an item to send, and until the client has read enough."""
        while (
            len(self._pings) >= PING_WINDOW
            or (found := self._waiting or self._warning) is None
            or self._closing.done()
        ):
            event = self._client_has_read if len(self._pings) >= PING_WINDOW else self._has_item
            event.clear()
            await event.wait()
        if self._waiting is None:
            self._warning = None
        self._waiting = None
        return found

    async def _message(self, found: InferredFrame | StreamError) -> object:
        if isinstance(found, StreamError):
            return found
        if found.failure is not None:
            return StreamError.of(found.failure.error(), found.number)
        reset, self._reset = self._reset, False
        dropped = found.dropped + self._replaced
        fields = self._session.fields(found.number, found.timing, dropped, reset=reset)
        return extended(await found.encoded(self._form), self._form, fields)
