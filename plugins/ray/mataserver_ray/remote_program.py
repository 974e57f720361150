"""The server's side of a child process on a node: what ``run_process`` yields."""

from __future__ import annotations

import asyncio
import struct
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING

import msgspec

from mataserver import Child as ChildProcess
from mataserver import read_tail
from mataserver_ray import program_relay
from mataserver_ray.node_runner import PROGRAM
from mataserver_ray.program_relay import FRAME_HEADER, frame

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from pathlib import Path

    from mataserver_ray.program_relay import LaunchRequest

LINE_LIMIT = 1 << 20
"""Maximum length of a message in bytes, as of a child on this machine."""
PIPE_SECONDS = 5.0
"""Timeout for the connection of an ended program to close."""
LOST_STATUS = -int(SIGKILL)
"""Exit status reported when the program's node or connection is lost: the real one is unknown."""


class RemoteChild(ChildProcess):
    """A child process on a node: has all of ``Child`` but a local ``pid``."""

    def __init__(self, reader: StreamReader, writer: StreamWriter, log: Path | None) -> None:
        self._output = asyncio.StreamReader(LINE_LIMIT)
        errors = asyncio.StreamReader()
        self._errors = errors
        self._writer = writer
        self._status: int | None = None
        self._finished = asyncio.get_running_loop().create_task(self._read_frames(reader))
        self._last_words = asyncio.get_running_loop().create_task(read_tail(errors, log))

    @property
    def pid(self) -> int:
        """Return 0: the process runs on another machine."""
        return 0

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, or its node is lost."""
        return self._finished.done()

    @property
    def output(self) -> StreamReader:
        """The stream of its standard output."""
        return self._output

    async def send(self, message: object) -> None:
        """Send a message. Raises ``ConnectionError`` if the process is gone."""
        await self.feed(msgspec.json.encode(message) + b"\n")

    async def feed(self, data: bytes) -> None:
        """Write raw bytes, and wait until the connection has room for more.

        Raises ``ConnectionError`` if the process is gone.
        """
        self.write(data)
        await self._writer.drain()

    def write(self, data: bytes) -> None:
        """Write bytes to its standard input without draining."""
        if self._finished.done():
            raise ConnectionResetError
        self._writer.write(frame(program_relay.INPUT, data))

    def close_input(self) -> None:
        """Close its standard input."""
        if not self._finished.done():
            self._writer.write(frame(program_relay.END_OF_INPUT))

    async def wait(self) -> int:
        """Wait for its end; return its exit status, ``LOST_STATUS`` if the node was lost."""
        await asyncio.wait([self._finished])
        return LOST_STATUS if self._status is None else self._status

    def signal(self, number: int) -> None:
        """Send a signal to it and its process group."""
        if not self._finished.done():
            self._writer.write(frame(program_relay.SIGNAL, str(int(number)).encode()))

    async def end(self, grace: float = 0.0, ask: int = SIGTERM) -> None:
        """Signal ``ask``, wait up to ``grace`` seconds, then kill it with its process group."""
        if grace and not self._finished.done():
            self.signal(ask)
            await asyncio.wait([self._finished], timeout=grace)
        self.signal(SIGKILL)
        await asyncio.wait([self._finished], timeout=PIPE_SECONDS)
        self._finished.cancel()
        await asyncio.gather(self._finished, self._last_words, return_exceptions=True)

    # the node's health

    def set_suspect(self, *, suspect: bool) -> None:
        """Ignore a silent node: it may recover."""

    def node_lost(self, reason: str) -> None:  # noqa: ARG002 - already logged
        """Report it as ended together with its node."""
        self._finished.cancel()

    async def _read_frames(self, reader: StreamReader) -> None:
        """Dispatch the node's frames until the exit status or the end of the connection."""
        try:
            while self._status is None:
                kind, size = FRAME_HEADER.unpack(await reader.readexactly(FRAME_HEADER.size))
                data = await reader.readexactly(size)
                if kind == program_relay.OUTPUT:
                    self._output.feed_data(data)
                elif kind == program_relay.ERROR:
                    self._errors.feed_data(data)
                else:
                    (self._status,) = struct.unpack(">i", data)
        except (OSError, asyncio.IncompleteReadError, struct.error):
            pass
        finally:
            self._output.feed_eof()
            self._errors.feed_eof()
            self._writer.close()


async def start_program(
    host: str, port: int, secret: bytes, request: LaunchRequest, log: Path | None
) -> RemoteChild:
    """Have a runner run a program. Raises ``OSError`` if its node is unreachable."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(secret + PROGRAM + msgspec.json.encode(request) + b"\n")
    return RemoteChild(reader, writer, log)
