"""Frames of a source for as long as they are wanted: connects, and connects again when it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mataserver.contract.sessions import SourceFrame

    class Connection(Protocol):
        """One connection to a source."""

        async def frame(self) -> SourceFrame:
            """Return the newest frame. Raises ``Lost``."""
            ...

        async def close(self) -> None:
            """End it."""
            ...


FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
State: TypeAlias = Literal["idle", "connecting", "connected", "failed"]


class Lost(Exception):
    """There are no more frames; the text is a sentence for clients."""


class Feed:
    """One source. ``reconnects`` counts how often it was connected again after it was lost."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        on_reconnect: Callable[[], None] = lambda: None,
    ) -> None:
        self._connect = connect
        self._on_reconnect = on_reconnect
        self._link: Connection | None = None
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
            if self._link is None:
                self.state = "connecting"
                self._link = await self._connect()
            frame = await self._link.frame()
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
        link, self._link = self._link, None
        if link is not None:
            await link.close()
