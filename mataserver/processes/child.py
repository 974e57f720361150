"""Child processes beside the workers, of downloads, cameras, jobs: the one way.

A child runs a module, a function or a program. It has a process group of its own, which is killed
when the context ends, and it dies when the server does. Messages go both ways as lines of JSON;
what it prints to standard error is kept to its last lines. Nothing of a child is unpickled. Of the
server's environment it gets what ``variables`` lists, and no more rights than the server has.
``mataserver.processes.spawned`` is the child's side.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from mataserver.errors import Unavailable
from mataserver.processes import variables

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

TAIL_BYTES = 4096
LINE_LIMIT = 1 << 20
"""The longest message."""
LOG_BYTES = 16_000_000
"""How much of what a child prints is kept in its log."""
PIPE_SECONDS = 5.0
"""How long the pipes of a child that has ended are waited for: what it has left behind in a session
of its own may hold them open."""
_LOOK_SECONDS = 0.002
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
            await self._drain()

    async def feed(self, data: bytes) -> None:
        """Write bytes that are no message, and wait until the child has room for more.

        Raises ``ConnectionError`` when it takes none any more.
        """
        self.write(data)
        await self._drain()

    async def give(self, data: bytes) -> None:
        """Write all that the child is to read, and close; one that reads it not is no error."""
        with contextlib.suppress(ConnectionError):
            await self.feed(data)
        self.close_input()

    async def _drain(self) -> None:
        """Wait until it has room for more."""
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
        """Wait for its end, and of what holds its pipes; return its exit status.

        It is negative for the signal that killed it.
        """
        return await self._process.wait()

    async def last_words(self) -> str:
        """Wait for its end; return the end of what it printed to standard error."""
        return (await self._last_words).decode(errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal to it and to whatever it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def end(self, grace: float = 0.0, ask: int = SIGTERM) -> None:
        """End it: asked by a signal, where it has ``grace`` seconds, then killed with its group."""
        if self._process.returncode is None and grace:
            self.signal(ask)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._process.wait()
        self.signal(SIGKILL)  # also what it has started and left behind
        self.close_input()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PIPE_SECONDS):
                await self._last_words
                while await self.output.read(TAIL_BYTES):  # a pipe that is not empty stays open
                    continue
        await self._ended()
        # asyncio has no other way to let go of pipes that somebody else holds open.
        self._process._transport.close()  # type: ignore[attr-defined] # noqa: SLF001
        await self._process.wait()
        await asyncio.sleep(0)  # for what closes the pipes

    async def _ended(self) -> None:
        """Wait until the loop has taken the status of the child, whoever holds its pipes.

        A transport that is closed before polls the child, and the loop then finds no status: it
        warns and says 255.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PIPE_SECONDS):
                while self._process.returncode is None:  # noqa: ASYNC110 - asyncio tells nobody
                    await asyncio.sleep(_LOOK_SECONDS)


@contextlib.asynccontextmanager
async def run_process(  # noqa: PLR0913 - each is another manner of the child
    target: str | Sequence[str] | Callable[..., None],
    arguments: Sequence[str] = (),
    *,
    environment: Mapping[str, str | None] | None = None,
    inherit: Sequence[str] = (),
    nice: int = 0,
    threads: int = 0,
    grace: float = 0.0,
    line_limit: int = LINE_LIMIT,
    log: Path | Literal["output"] | None = None,
    confined: bool = True,
) -> AsyncIterator[Child]:
    """Run a child until the context ends.

    ``target`` is a module's name (run as ``python -m``), a module-level function that is called
    with a ``Parent``, or a program with its arguments. Of the server's variables it gets what
    ``variables.for_child`` gives everybody, and those of ``inherit``, names or beginnings with a
    star; ``environment`` is added, and None takes one away. ``nice`` puts it behind those who
    serve, and first in line when memory runs out; ``threads`` bounds the threads of numeric
    libraries (0: as they like). At the end of the context it has ``grace`` seconds to stop. What it
    prints to standard error is added to the file ``log``, up to ``LOG_BYTES``, or to its "output".
    ``confined``: it makes no system calls such as ``ptrace`` and ``mount`` (``seccomp.REFUSED``).
    Raises ``Unavailable`` when no process can be started.
    """
    given = variables_of(environment or {}, inherit, threads)
    command, variables_given = spawned([*named(target), *arguments], given, nice, confined=confined)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if log == "output" else asyncio.subprocess.PIPE,
            env=variables_given,
            start_new_session=True,
            limit=line_limit,
        )
    except OSError as error:
        raise Unavailable("No process can be started now", retry_after=1) from error
    errors = asyncio.create_task(last_words_of(process.stderr, None if log == "output" else log))
    child = Child(process, errors)
    try:
        yield child
    finally:
        ending = asyncio.ensure_future(child.end(grace))
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            await ending  # whoever is cancelled leaves no child behind, nor what waits for it
            raise


def spawned(
    what: Sequence[str], given: Mapping[str, str], nice: int = 0, *, confined: bool = True
) -> tuple[list[str], dict[str, str]]:
    """Return the command and the variables by which ``mataserver.processes.spawned`` runs that."""
    path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109 - as the import system
    command = [sys.executable, "-P", "-m", "mataserver.processes.spawned", str(os.getpid())]
    command += [str(nice), str(int(confined)), given.get("PYTHONPATH", ""), *what]
    return command, {**given, "PYTHONPATH": os.pathsep.join(path)}


def variables_of(
    given: Mapping[str, str | None], inherit: Sequence[str], threads: int
) -> dict[str, str]:
    """Return the environment of a child: see ``run_process``."""
    bounded = dict.fromkeys(_THREADS, str(threads)) if threads else {}
    merged: dict[str, str | None] = {**variables.for_child(inherit), **bounded, **given}
    return {name: value for name, value in merged.items() if value is not None}


def replacing(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Return what makes ``environment`` the whole environment of a child."""
    return {**dict.fromkeys(os.environ), **environment}


def named(target: str | Sequence[str] | Callable[..., None]) -> list[str]:
    """Return a target as the child's command line says it."""
    if isinstance(target, str):
        return ["module", target]
    if callable(target):
        if "<" in target.__qualname__ or target.__module__ == "__main__":
            raise ValueError("a child's function must stand at the top level of a module")
        return ["function", f"{target.__module__}:{target.__qualname__}"]
    return ["program", *target]


async def last_words_of(stream: StreamReader | None, log: Path | None) -> bytes:
    """Read a stream to its end, into a log if there is one; return the last of it."""
    tail, room = b"", LOG_BYTES
    if stream is None:  # it goes to the output
        return tail
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
