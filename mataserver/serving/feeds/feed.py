"""Frames of a source for as long as they are wanted: connects, and connects again when it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from mataserver.contract.sessions import SourceFrame
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    Frames = AsyncGenerator[bytes | SourceFrame]

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
State: TypeAlias = Literal["idle", "connecting", "connected", "failed"]


class Lost(Exception):
    """There are no more frames; the text is a sentence for clients."""


class Feed:
    """One source, which ``connect`` opens; ``reconnects`` counts how often it was lost and came."""

    def __init__(
        self, connect: Callable[[], Frames], on_reconnect: Callable[[], None] = lambda: None
    ) -> None:
        self._connect = connect
        self._on_reconnect = on_reconnect
        self._frames: Frames | None = None
        self.failures = 0
        self._lost = False
        self.state: State = "idle"
        self.problem: str | None = None
        self.reconnects = 0

    @property
    def pause(self) -> float:
        """Seconds to wait before the next try: twice as long after each that failed."""
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.failures - 1, 10))

    async def frame(self) -> SourceFrame:
        """Return the newest frame, connecting if need be. Raises ``Lost``: try again later."""
        try:
            if self._frames is None:
                self.state = "connecting"
                self._frames = self._connect()
            frame = await _next(self._frames)
        except Lost as error:
            await self._end()
            self._lost = self._lost or self.state == "connected"
            self.state, self.problem = "failed", str(error)
            self.failures += 1
            raise
        if self._lost:
            self.reconnects += 1
            self._on_reconnect()
        self.state, self.problem = "connected", None
        self.failures, self._lost = 0, False
        return frame

    async def stop(self) -> None:
        """Disconnect."""
        await self._end()
        self.state, self.problem = "idle", None
        self.failures, self._lost = 0, False

    async def _end(self) -> None:
        frames, self._frames = self._frames, None
        if frames is not None:
            await frames.aclose()


async def _next(frames: Frames) -> SourceFrame:
    """Return the next frame. Raises ``Lost`` when there is none, with what may be told."""
    try:
        found = await anext(frames)
    except StopAsyncIteration:
        raise Lost("it has ended") from None
    except MataError as error:
        raise Lost(error.detail) from None
    except Exception as error:
        raise Lost("it has failed") from error
    return found if isinstance(found, SourceFrame) else SourceFrame(found)
