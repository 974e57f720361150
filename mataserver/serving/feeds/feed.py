"""Frames of a source while they are in demand: connects, and reconnects after failures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Literal, TypeAlias

from mataserver.contract.sessions import SourceFrame
from mataserver.errors import MataError
from mataserver.plugin_ends import ends_as_errors, ends_logged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Frames = AsyncGenerator[bytes | SourceFrame]

FIRST_PAUSE, MAX_PAUSE = 0.5, 10.0
State: TypeAlias = Literal["idle", "connecting", "connected", "failed"]

log = logging.getLogger("mataserver.cameras")


class SourceLostError(Exception):
    """The source has no more frames; the text is a sentence for clients."""


class Feed:
    """One source, opened by ``connect``; ``reconnects`` counts recoveries after a loss.

    ``failures`` counts the attempts since its last frame, ``damaged`` the frames left out as that.
    """

    def __init__(
        self,
        connect: Callable[[], Frames],
        on_reconnect: Callable[[], None] = lambda: None,
        on_damaged: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._connect = connect
        self._on_reconnect = on_reconnect
        self._on_damaged = on_damaged
        self._frames: Frames | None = None
        self.failures = 0
        self._short_connections = 0
        self._connected_at = 0.0
        self._was_lost = False
        self.state: State = "idle"
        self.problem: str | None = None
        self.reconnects = self.damaged = 0

    @property
    def pause(self) -> float:
        """Seconds until the next attempt: doubled with each, until one has lasted.

        A source that ends after a few frames each time would cost a new reader every second.
        """
        return min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(self._short_connections - 1, 10))

    async def frame(self) -> SourceFrame:
        """Return the newest frame, connecting if necessary.

        Raises ``SourceLostError``, after which the caller retries.
        """
        try:
            if self._frames is None:
                self.state = "connecting"
                self._frames = _open(self._connect)
            frame = await self._next_picture(self._frames)
        except SourceLostError as error:
            await self._close()
            was_connected = self.state == "connected"
            if was_connected and _now() - self._connected_at > MAX_PAUSE:
                self._short_connections = 0
            self._was_lost = self._was_lost or was_connected
            self.state, self.problem = "failed", str(error)
            self.failures += 1
            self._short_connections += 1
            raise
        if self.state != "connected":
            self._connected_at = _now()
        if self._was_lost:
            self.reconnects += 1
            self._on_reconnect()
        self.state, self.problem = "connected", None
        self.failures, self._was_lost = 0, False
        return frame

    async def _next_picture(self, frames: Frames) -> SourceFrame:
        """Return the next frame with a picture, which counts the damaged ones before it too."""
        passed = damaged = 0
        while True:
            frame = await _next(frames)
            passed, damaged = passed + frame.passed, damaged + frame.damaged
            if frame.damaged:
                self.damaged += frame.damaged
                self._on_damaged(frame.damaged)
            if frame.image or not frame.damaged:
                return SourceFrame(frame.image, passed, damaged)

    async def stop(self) -> None:
        """Disconnect."""
        await self._close()
        self.state, self.problem = "idle", None
        self.failures, self._was_lost = 0, False
        self._short_connections = 0

    async def _close(self) -> None:
        frames, self._frames = self._frames, None
        if frames is not None:
            with ends_logged(log, "a source failed when it was closed"):
                await frames.aclose()


def _now() -> float:
    return asyncio.get_running_loop().time()


@contextlib.contextmanager
def _as_source_lost() -> Iterator[None]:
    """Convert a plugin's exceptions to ``SourceLostError``, with a message for clients."""
    try:
        with ends_as_errors():
            yield
    except SourceLostError:
        raise
    except MataError as error:
        raise SourceLostError(error.detail) from None
    except Exception as error:
        raise SourceLostError("it has failed") from error


def _open(connect: Callable[[], Frames]) -> Frames:
    """Open a source. Raises ``SourceLostError``, also if it is not an asynchronous generator."""
    with _as_source_lost():
        made: object = connect()
        if isinstance(made, AsyncGenerator):
            return made
        name = type(made).__name__
        raise TypeError(f"frames() of the source gave a {name}, not an async generator")


async def _next(frames: Frames) -> SourceFrame:
    """Return the next frame. Raises ``SourceLostError``, with a message for clients."""
    with _as_source_lost():
        try:
            found: object = await anext(frames)
        except StopAsyncIteration:
            raise SourceLostError("it has ended") from None
        image, passed, damaged = found if isinstance(found, SourceFrame) else (found, 1, 0)
        if isinstance(image, bytes):
            return SourceFrame(image, passed, damaged)
        name = type(image).__name__
        raise TypeError(f"the source gave a {name}, not the bytes of an encoded picture")
