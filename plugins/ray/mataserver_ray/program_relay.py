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

from mataserver import build_environment, spawn_command

if TYPE_CHECKING:
    import socket

FRAME_HEADER = struct.Struct(">cI")
INPUT, END_OF_INPUT, SIGNAL = b"i", b"c", b"k"
"""Server to node: input bytes, end of input, a signal number."""
OUTPUT, ERROR, STATUS = b"o", b"e", b"s"
"""Node to server: output bytes, and finally the exit status."""
CHUNK_BYTES = 1 << 16


class LaunchRequest(Struct, frozen=True):
    """What to run: the first line. ``target`` is as ``target_command`` returns it."""

    target: list[str]
    environment: dict[str, str]
    nice: int
    threads: int


def frame(kind: bytes, data: bytes = b"") -> bytes:
    """Return a frame."""
    return FRAME_HEADER.pack(kind, len(data)) + data


class ProgramRelay:
    """Runs one program for the server connected to ``sock``; kills it when the server goes away."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._send_lock = threading.Lock()

    def run(self) -> None:
        """Run the program until it ends, or the server disconnects."""
        with self._sock, self._sock.makefile("rb") as reader:
            program = msgspec.json.decode(reader.readline(), type=LaunchRequest)
            process = _start(program)
            threading.Thread(target=self._run_commands, args=(reader, process), daemon=True).start()
            streams = ((OUTPUT, process.stdout), (ERROR, process.stderr))
            forwarders = [
                threading.Thread(target=self._forward_output, args=(kind, cast("BinaryIO", stream)))
                for kind, stream in streams
            ]
            for forwarder in forwarders:
                forwarder.start()
            status = process.wait()
            _signal(process, signal.SIGKILL)  # leftover descendants would keep its pipes open
            for forwarder in forwarders:
                forwarder.join()
            self._send(STATUS, struct.pack(">i", status))

    def _send(self, kind: bytes, data: bytes) -> None:
        with self._send_lock, contextlib.suppress(OSError):
            self._sock.sendall(frame(kind, data))

    def _forward_output(self, kind: bytes, stream: BinaryIO) -> None:
        while chunk := stream.read1(CHUNK_BYTES):  # type: ignore[attr-defined] # it is buffered
            self._send(kind, chunk)

    def _run_commands(self, reader: BinaryIO, process: subprocess.Popen[bytes]) -> None:
        """Execute the server's frames until it disconnects; then kill the program."""
        stdin = cast("BinaryIO", process.stdin)
        with contextlib.suppress(OSError, struct.error, ValueError):
            while True:
                kind, size = FRAME_HEADER.unpack(reader.read(FRAME_HEADER.size))
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


def _start(program: LaunchRequest) -> subprocess.Popen[bytes]:
    given = build_environment(program.environment, (), program.threads)
    command, variables = spawn_command(program.target, given, program.nice)
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
