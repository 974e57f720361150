"""The server's end of a reader: starts the child, asks it for frames, notices that it hangs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING, NamedTuple, cast

import msgspec

from mataserver import variables
from mataserver.cameras.messages import WANT, Failed, Message

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from asyncio.subprocess import Process

    from mataserver.cameras.messages import Opening

START_SECONDS = 15.0
"""What a child may take, besides the source's own time, until it gives its first frame."""
_BUFFER_BYTES = 1 << 20
_DEATHS = (
    asyncio.IncompleteReadError,
    asyncio.LimitOverrunError,
    msgspec.DecodeError,
    OSError,
    RuntimeError,  # what uvloop raises for a pipe that is closed
)
_DECODER: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class Lost(Exception):
    """There are no more frames; the text is a sentence for clients."""


class Frame(NamedTuple):
    """A JPEG, and how many frames were decoded up to it since the last one that was given."""

    jpeg: bytes
    passed: int


class Link:
    """One connection to a source, in a child of its own."""

    def __init__(self, process: Process, timeout: float) -> None:
        self._process = process
        self._timeout = timeout
        self._patience = timeout + START_SECONDS
        self._count = 0

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @classmethod
    async def start(cls, opening: Opening) -> Link:
        """Start a child that opens a source; it connects while the server goes on.

        The address goes through a pipe: on the command line every user of the machine could read
        it. Raises ``Lost`` when no process can be started.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "mataserver.cameras.reader", str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_BUFFER_BYTES,
                env=variables.for_child(),
                start_new_session=True,
            )
        except OSError:
            raise Lost("its reader cannot be started") from None
        link = cls(process, opening.timeout)
        link._write(msgspec.json.encode(opening) + b"\n")
        return link

    async def frame(self) -> Frame:
        """Return the newest frame that was not given yet; wait for one if there is none.

        Raises ``Lost`` when the source ended or failed, the child died, or nothing came for the
        source's time. Whoever is cancelled here must close the link.
        """
        try:
            self._write(WANT)
            async with asyncio.timeout(self._patience):
                frame = await self._answer()
        except TimeoutError:
            raise Lost("it gave nothing for too long") from None
        except _DEATHS:
            raise Lost("its reader died") from None
        self._patience = self._timeout
        return frame

    async def close(self) -> None:
        """End the child."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        cast("StreamWriter", self._process.stdin).close()
        await cast("StreamReader", self._process.stdout).read()  # its pipe closes at its end

    async def _answer(self) -> Frame:
        answers = cast("StreamReader", self._process.stdout)
        message = _DECODER.decode(await answers.readuntil())
        if isinstance(message, Failed):
            raise Lost(message.detail)
        data = await answers.readexactly(message.size)
        passed, self._count = message.count - self._count, message.count
        return Frame(data, passed)

    def _write(self, data: bytes) -> None:
        cast("StreamWriter", self._process.stdin).write(data)
