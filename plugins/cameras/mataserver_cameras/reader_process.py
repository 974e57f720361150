"""The server's end of a reader: starts the child, asks it for frames, notices that it hangs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec

from mataserver import SourceFrame, Unavailable, run_process
from mataserver_cameras.messages import NEXT_FRAME, FailureMessage, Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver import Child
    from mataserver_cameras.messages import OpenRequest

START_SECONDS = 15.0
"""What a child may take, besides the source's own time, until it gives its first frame."""
GRACE = 1.0
"""Seconds beyond the source's time that a child has to say itself why there is no frame."""
READER = "mataserver_cameras.reader"
_READER_FAILURES = (
    asyncio.IncompleteReadError,
    asyncio.LimitOverrunError,
    msgspec.DecodeError,
    OSError,
)
_DECODER: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class SourceLost(Unavailable):
    """There are no more frames; the text is a sentence for clients."""


class ReaderProcess:
    """One connection to a source, in a child of its own."""

    def __init__(self, child: Child, timeout: float, exit_stack: contextlib.AsyncExitStack) -> None:
        self._child = child
        self._exit_stack = exit_stack
        self._timeout = timeout
        self._frame_timeout = timeout + START_SECONDS
        self._count = self._damaged = 0

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    @classmethod
    async def start(
        cls, opening: OpenRequest, reader: str | Sequence[str] = READER
    ) -> ReaderProcess:
        """Start a child that opens a source; it connects concurrently.

        The address goes through a pipe: on the command line every user of the machine could read
        it. Raises ``SourceLost`` when no process can be started.
        """
        exit_stack = contextlib.AsyncExitStack()
        try:
            child = await exit_stack.enter_async_context(run_process(reader))
        except Unavailable:
            raise SourceLost("its reader cannot be started") from None
        process = cls(child, opening.timeout, exit_stack)
        with contextlib.suppress(ConnectionError):  # ``frame`` finds it dead
            child.write(msgspec.json.encode(opening) + b"\n")
        return process

    async def frame(self) -> SourceFrame:
        """Return the newest frame that was not given yet; wait for one if there is none.

        Raises ``SourceLost`` when the source ended or failed, the child died, or no frame arrived
        within the time limit. A caller that is cancelled here must close the process.
        """
        try:
            self._child.write(NEXT_FRAME)
            async with asyncio.timeout(self._frame_timeout):
                frame = await self._read_frame()
        except TimeoutError:
            raise SourceLost("it gave no frame for too long") from None
        except _READER_FAILURES:
            raise SourceLost("its reader died") from None
        self._frame_timeout = self._timeout + GRACE
        return frame

    async def close(self) -> None:
        """End the child."""
        await self._exit_stack.aclose()

    async def _read_frame(self) -> SourceFrame:
        answers = self._child.output
        message = _DECODER.decode(await answers.readuntil())
        if isinstance(message, FailureMessage):
            raise SourceLost(message.detail)
        data = await answers.readexactly(message.size)
        passed, damaged = message.count - self._count, message.damaged - self._damaged
        self._count, self._damaged = message.count, message.damaged
        return SourceFrame(data, passed, damaged)
