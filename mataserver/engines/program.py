"""The node's side of a child process on a node: relays its pipes and signals to the server.

Both directions use frames: one letter, a four-byte length, and the payload.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import threading
from typing import TYPE_CHECKING, BinaryIO, cast

import msgspec
from msgspec import Struct

from mataserver.processes.child import spawned, variables_of

if TYPE_CHECKING:
    import socket

HEAD = struct.Struct(">cI")
INPUT, END_OF_INPUT, SIGNAL = b"i", b"c", b"k"
"""Server to node: input bytes, end of input, a signal number."""
OUTPUT, ERROR, STATUS = b"o", b"e", b"s"
"""Node to server: output bytes, and finally the exit status."""
PIECE = 1 << 16


class Launch(Struct, frozen=True):
    """What to run, as the first line: ``what`` in the form of ``mataserver.processes.spawned``."""

    what: list[str]
    environment: dict[str, str]
    nice: int
    threads: int


def frame(kind: bytes, data: bytes = b"") -> bytes:
    """Return a frame."""
    return HEAD.pack(kind, len(data)) + data


class Tenant:
    """Runs one program for the server connected to ``sock``; kills it when the server goes away."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()

    def run(self) -> None:
        """Run the program until it ends, or the server disconnects."""
        with self._sock, self._sock.makefile("rb") as reader:
            program = msgspec.json.decode(reader.readline(), type=Launch)
            process = _started(program)
            threading.Thread(target=self._obey, args=(reader, process), daemon=True).start()
            streams = ((OUTPUT, process.stdout), (ERROR, process.stderr))
            tellers = [
                threading.Thread(target=self._tell, args=(kind, cast("BinaryIO", stream)))
                for kind, stream in streams
            ]
            for teller in tellers:
                teller.start()
            status = process.wait()
            _signal(process, signal.SIGKILL)  # leftover descendants would keep its pipes open
            for teller in tellers:
                teller.join()
            self._send(STATUS, struct.pack(">i", status))

    def _send(self, kind: bytes, data: bytes) -> None:
        with self._sending, contextlib.suppress(OSError):
            self._sock.sendall(frame(kind, data))

    def _tell(self, kind: bytes, stream: BinaryIO) -> None:
        while piece := stream.read1(PIECE):  # type: ignore[attr-defined] # it is buffered
            self._send(kind, piece)

    def _obey(self, reader: BinaryIO, process: subprocess.Popen[bytes]) -> None:
        """Execute the server's frames until it disconnects; then kill the program."""
        stdin = cast("BinaryIO", process.stdin)
        with contextlib.suppress(OSError, struct.error, ValueError):
            while True:
                kind, size = HEAD.unpack(reader.read(HEAD.size))
                data = reader.read(size)
                if kind == INPUT:
                    with contextlib.suppress(BrokenPipeError):
                        stdin.write(data)
                        stdin.flush()
                elif kind == END_OF_INPUT:
                    stdin.close()
                else:
                    _signal(process, int(data))
        _signal(process, signal.SIGKILL)


def _started(program: Launch) -> subprocess.Popen[bytes]:
    given = variables_of(program.environment, (), program.threads)
    command, variables = spawned(program.what, given, program.nice)
    return subprocess.Popen(  # noqa: S603 - requested by the authenticated server
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
        start_new_session=True,
    )


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a program's process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
