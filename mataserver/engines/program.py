"""A child process on a node, at its node: its pipes and signals travel on the server's connection.

Frames go both ways: a letter, four bytes of length, and so many bytes.
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
"""Server to node: bytes for the program, no more of them, a signal's number."""
OUTPUT, ERROR, STATUS = b"o", b"e", b"s"
"""Node to server: what it printed, and its exit status, after which nothing comes."""
PIECE = 1 << 16


class Launch(Struct, frozen=True):
    """What is to run: ``what`` as ``mataserver.processes.spawned`` takes it, the first line."""

    what: list[str]
    environment: dict[str, str]
    nice: int
    threads: int


def frame(kind: bytes, data: bytes = b"") -> bytes:
    """Return a frame."""
    return HEAD.pack(kind, len(data)) + data


class Tenant:
    """Runs one program for the server at the other end of ``sock``, and ends it when that goes."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()

    def run(self) -> None:
        """Run the program to its end, or until the server has gone."""
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
            _signal(process, signal.SIGKILL)  # what it has started and left behind holds its pipes
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
        """Do as the server says until it has gone; then end the program."""
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
    return subprocess.Popen(  # noqa: S603 - the server's, which knew the secret
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
        start_new_session=True,
    )


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a program and what it has started, which is its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
