"""Child processes beside the workers, of downloads, conversions, cameras, jobs: the one way.

A child runs a module, a function or a program. It has a process group of its own, which is killed
when the context ends, and it dies when the server does. Messages go both ways as lines of JSON;
what it prints to standard error is kept to its last lines. Nothing of a child is unpickled. Of the
server's environment it gets what ``variables`` lists, and no more rights than the server has.

``python -m mataserver.processes PARENT NICE TARGET …`` is the child's side: it makes the child die
with its parent, steps back behind those who serve, and runs the target.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

import msgspec

from mataserver import kernel, variables
from mataserver.errors import Unavailable

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

TAIL_BYTES = 4096
LINE_LIMIT = 1 << 20
"""The longest message."""
LOG_BYTES = 16_000_000
"""How much of what a child prints is kept in its log."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Child:
    """A running child process."""

    def __init__(self, process: Process, last_words: asyncio.Task[bytes]) -> None:
        self._process = process
        self._last_words = last_words

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its group."""
        return self._process.pid

    @property
    def output(self) -> StreamReader:
        """What it writes to its standard output, for those who send more than messages."""
        return cast("StreamReader", self._process.stdout)

    async def send(self, message: object) -> None:
        """Send a message. Raises ``ConnectionError`` when the child takes none any more."""
        self.write(msgspec.json.encode(message) + b"\n")
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await cast("StreamWriter", self._process.stdin).drain()

    def write(self, data: bytes) -> None:
        """Write bytes to its standard input."""
        try:
            cast("StreamWriter", self._process.stdin).write(data)
        except RuntimeError as error:  # what uvloop raises for a pipe that is closed
            raise ConnectionResetError from error

    def close_input(self) -> None:
        """Tell the child that no more messages come."""
        cast("StreamWriter", self._process.stdin).close()

    async def messages(self, kind: Any) -> AsyncIterator[Any]:
        """Yield its messages, of a type that may be a union, until it ends.

        Raises ``msgspec.DecodeError`` for what is no message of that kind, and ``ValueError`` for
        one that is too long.
        """
        decoder = msgspec.json.Decoder(kind)
        while line := await self.output.readline():
            yield decoder.decode(line)

    async def wait(self) -> int:
        """Wait for its end; return its exit status, negative for the signal that killed it."""
        return await self._process.wait()

    async def last_words(self) -> str:
        """Wait for its end; return the end of what it printed to standard error."""
        return (await self._last_words).decode(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and to whatever it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def end(self, grace: float = 0.0) -> None:
        """End it: asked first, where it has ``grace`` seconds, then killed with its group."""
        if self._process.returncode is None and grace:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._process.wait()
        self.signal(signal.SIGKILL)  # also what it has started and left behind
        await self._process.wait()
        self.close_input()
        await self._last_words


@contextlib.asynccontextmanager
async def run_process(  # noqa: PLR0913 - each is another manner of the child
    target: str | Sequence[str] | Callable[..., None],
    arguments: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    inherit: Sequence[str] = (),
    nice: int = 0,
    threads: int = 0,
    grace: float = 0.0,
    line_limit: int = LINE_LIMIT,
    log: Path | None = None,
) -> AsyncIterator[Child]:
    """Run a child until the context ends.

    ``target`` is a module's name (run as ``python -m``), a module-level function that is called
    with a ``Parent``, or a program with its arguments. Of the server's variables it gets what
    ``variables.for_child`` gives everybody, and those of ``inherit``, names or beginnings with a
    star; ``environment`` is added. ``nice`` puts it behind those who serve, and first in line when
    memory runs out; ``threads`` bounds the threads of numeric libraries (0: as they like). At the
    end of the context it has ``grace`` seconds to stop. What it prints to standard error is added
    to the file ``log``, up to
    ``LOG_BYTES``. Raises ``Unavailable`` when no process can be started.
    """
    what = _named(target)
    command = [sys.executable, "-P", "-m", "mataserver.processes", str(os.getpid()), str(nice)]
    path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109 - as the import system
    bounded = dict.fromkeys(_THREADS, str(threads)) if threads else {}
    try:
        process = await asyncio.create_subprocess_exec(
            *(*command, *what, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                **variables.for_child(inherit),
                "PYTHONPATH": os.pathsep.join(path),
                **bounded,
                **(environment or {}),
            },
            start_new_session=True,
            limit=line_limit,
        )
    except OSError as error:
        raise Unavailable("No process can be started now", retry_after=1) from error
    errors = asyncio.create_task(_tail(cast("StreamReader", process.stderr), log))
    child = Child(process, errors)
    try:
        yield child
    finally:
        await asyncio.shield(child.end(grace))


def _named(target: str | Sequence[str] | Callable[..., None]) -> list[str]:
    """Return a target as the child's command line says it."""
    if isinstance(target, str):
        return ["module", target]
    if callable(target):
        if "<" in target.__qualname__ or target.__module__ == "__main__":
            raise ValueError("a child's function must stand at the top level of a module")
        return ["function", f"{target.__module__}:{target.__qualname__}"]
    return ["program", *target]


async def _tail(stream: StreamReader, log: Path | None) -> bytes:
    tail, room = b"", LOG_BYTES
    while part := await stream.read(TAIL_BYTES):
        tail = (tail + part)[-TAIL_BYTES:]
        if log is not None and room > 0:
            room -= len(part)
            with contextlib.suppress(OSError):  # a full disk must not stop the child
                await asyncio.to_thread(_append, log, part)
    return tail


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


# the child's side


class Parent:
    """The server, as a child's function sees it."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO, arguments: list[str]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self.arguments = arguments

    def send(self, message: object) -> None:
        """Send a message."""
        self._outgoing.write(msgspec.json.encode(message) + b"\n")
        self._outgoing.flush()

    def messages(self, kind: Any) -> Iterator[Any]:
        """Yield the server's messages until it sends no more."""
        decoder = msgspec.json.Decoder(kind)
        while line := self._incoming.readline():
            yield decoder.decode(line)

    @classmethod
    def on_pipes(cls, arguments: list[str]) -> Self:
        """Take standard input and output; what a library prints then goes to standard error."""
        outgoing = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        return cls(sys.stdin.buffer, outgoing, arguments)


def _step_back(nice: int) -> None:
    """Let models that are being served go first, for the processor and when memory runs out."""
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.nice(nice)
    kernel.be_killed_first(1000)


def main() -> None:
    """Run the target of the command line."""
    parent, nice, kind, name, *arguments = sys.argv[1:]
    kernel.die_with(int(parent))
    kernel.give_up_privileges()
    if int(nice):
        _step_back(int(nice))
    if kind == "program":
        os.execvp(name, [name, *arguments])  # noqa: S606 - no shell, the server's own arguments
    if kind == "module":
        sys.argv = [name, *arguments]
        importlib.import_module(name).main()
        return
    module, _, function = name.partition(":")
    getattr(importlib.import_module(module), function)(Parent.on_pipes(arguments))


if __name__ == "__main__":
    main()
