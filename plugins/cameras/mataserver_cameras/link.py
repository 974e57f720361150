"""The server's end of a reader: starts the child, asks it for frames, notices that it hangs."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec

from mataserver import SourceFrame, Unavailable, run_process
from mataserver_cameras.messages import WANT, Failed, Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver import Child
    from mataserver_cameras.messages import Opening

START_SECONDS = 15.0
"""What a child may take, besides the source's own time, until it gives its first frame."""
READER = "mataserver_cameras.reader"
_DEATHS = (
    asyncio.IncompleteReadError,
    asyncio.LimitOverrunError,
    msgspec.DecodeError,
    OSError,
)
_DECODER: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class Lost(Unavailable):
    """There are no more frames; the text is a sentence for clients."""


class Link:
    """One connection to a source, in a child of its own."""

    def __init__(self, child: Child, timeout: float, end: contextlib.AsyncExitStack) -> None:
        self._child = child
        self._end = end
        self._timeout = timeout
        self._patience = timeout + START_SECONDS
        self._count = 0

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    @classmethod
    async def start(cls, opening: Opening, reader: str | Sequence[str] = READER) -> Link:
        """Start a child that opens a source; it connects while the server goes on.

        The address goes through a pipe: on the command line every user of the machine could read
        it. Raises ``Lost`` when no process can be started.
        """
        end = contextlib.AsyncExitStack()
        try:
            child = await end.enter_async_context(run_process(reader))
        except Unavailable:
            raise Lost("its reader cannot be started") from None
        link = cls(child, opening.timeout, end)
        with contextlib.suppress(ConnectionError):  # whoever asks for a frame finds it dead
            child.write(msgspec.json.encode(opening) + b"\n")
        return link

    async def frame(self) -> SourceFrame:
        """Return the newest frame that was not given yet; wait for one if there is none.

        Raises ``Lost`` when the source ended or failed, the child died, or nothing came for the
        source's time. Whoever is cancelled here must close the link.
        """
        try:
            self._child.write(WANT)
            async with asyncio.timeout(self._patience):
                frame = await self._answer()
        except TimeoutError:
            raise Lost("it sent nothing for too long") from None
        except _DEATHS:
            raise Lost("its reader died") from None
        self._patience = self._timeout
        return frame

    async def close(self) -> None:
        """End the child."""
        await self._end.aclose()

    async def _answer(self) -> SourceFrame:
        answers = self._child.output
        message = _DECODER.decode(await answers.readuntil())
        if isinstance(message, Failed):
            raise Lost(message.detail)
        data = await answers.readexactly(message.size)
        passed, self._count = message.count - self._count, message.count
        return SourceFrame(data, passed)
