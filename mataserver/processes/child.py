"""Child processes other than workers (downloads, cameras, jobs): the only way to start one.

A child runs a module, a function or a program. It has its own process group, which is killed when
the context ends, and it dies with the server. Messages in both directions are lines of JSON; the
tail of its standard error is kept. Nothing from a child is unpickled. It inherits only the
environment variables that ``variables`` lists, and cannot gain privileges.
``mataserver.processes.child_main`` is the child's side.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from signal import SIGKILL, SIGTERM
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any, Literal, cast
from weakref import WeakKeyDictionary

import msgspec

from mataserver.errors import Unavailable
from mataserver.finishing import wait_out
from mataserver.processes import variables

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

TAIL_BYTES = 4096
LINE_LIMIT = 1 << 20
"""Maximum length of a message in bytes."""
LOG_BYTES = 16_000_000
"""Maximum bytes of a child's output in its log file."""
PIPE_SECONDS = 5.0
"""Timeout for the pipes of an exited child to close: descendants in another session may hold them
open."""
_POLL_SECONDS = 0.002
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
"""Of each event loop: who starts a child, which holds the loop up for milliseconds."""


class Child:
    """A running child process."""

    def __init__(self, process: Process, last_words: asyncio.Task[bytes]) -> None:
        self._process = process
        self._last_words = last_words

    @property
    def pid(self) -> int:
        """Its process id, which is also its process group."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has ended: its process id may be another's by now."""
        return self._process.returncode is not None

    @property
    def output(self) -> StreamReader:
        """The stream of its standard output, for protocols other than messages."""
        return cast("StreamReader", self._process.stdout)

    @property
    def _input(self) -> StreamWriter:
        return cast("StreamWriter", self._process.stdin)

    async def send(self, message: object) -> None:
        """Send a message. Raises ``ConnectionError`` if the child's input is closed."""
        self.write(msgspec.json.encode(message) + b"\n")
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await self._input.drain()

    async def feed(self, data: bytes) -> None:
        """Write raw bytes, and wait until the child has room for more.

        Raises ``ConnectionError`` if its input is closed.
        """
        self.write(data)
        await self._input.drain()

    def write(self, data: bytes) -> None:
        """Write bytes to its standard input without draining."""
        try:
            self._input.write(data)
        except RuntimeError as error:  # uvloop's error for a closed pipe
            raise ConnectionResetError from error

    def close_input(self) -> None:
        """Close its standard input."""
        self._input.close()

    async def messages(self, kind: Any) -> AsyncIterator[Any]:
        """Yield its messages, of a type that may be a union, until it ends.

        Raises ``msgspec.DecodeError`` for a malformed message, and ``ValueError`` for one that is
        too long.
        """
        decoder = msgspec.json.Decoder(kind)
        while connection := await self.output.readline():
            yield decoder.decode(connection)

    async def wait(self) -> int:
        """Wait for its end, and for its pipes to close; return its exit status.

        The status is negative for the signal that killed it.
        """
        return await self._process.wait()

    async def last_words(self) -> str:
        """Wait for its end; return the tail of its standard error."""
        return (await self._last_words).decode(errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal to it and its process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def end(self, grace: float = 0.0, ask: int = SIGTERM) -> None:
        """Signal ``ask``, wait up to ``grace`` seconds, then kill it with its process group."""
        if self._process.returncode is None and grace:
            self.signal(ask)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._process.wait()
        self.signal(SIGKILL)  # also any descendants left behind
        self.close_input()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PIPE_SECONDS):
                await self._last_words
                while await self.output.read(TAIL_BYTES):  # an unread pipe would not close
                    continue
        await self._wait_reaped()
        # asyncio has no public way to close pipes that another process holds open.
        self._process._transport.close()  # type: ignore[attr-defined] # noqa: SLF001
        await self._process.wait()
        await asyncio.sleep(0)  # lets the callbacks that close the pipes run

    def abandon(self) -> None:
        """Kill it and close its pipes at once, where no loop is left to wait for its end."""
        self.signal(SIGKILL)
        transport = self._process._transport  # type: ignore[attr-defined] # noqa: SLF001
        transport.close()
        if (running := transport.get_extra_info("subprocess")) is not None:
            with contextlib.suppress(TimeoutExpired):
                running.wait(PIPE_SECONDS)  # it is killed: this reaps it

    async def _wait_reaped(self) -> None:
        """Wait until the loop has reaped the child, even if its pipes are held open.

        Closing the transport earlier would reap it behind the loop's back, which then warns and
        reports 255.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PIPE_SECONDS):
                while self._process.returncode is None:  # noqa: ASYNC110 - there is no event
                    await asyncio.sleep(_POLL_SECONDS)


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

    ``target`` is a module name (run as ``python -m``), a module-level function that is called with
    a ``Parent``, or a program with its arguments. It inherits the variables of
    ``variables.for_child``, and those of ``inherit``: names, or patterns such as ``AWS_*``;
    ``environment`` adds variables, or removes those set to None. ``nice`` lowers its priority, and
    makes it the first to be killed when memory runs out; ``threads`` limits the threads of numeric
    libraries (0: no limit). When the context ends, it has ``grace`` seconds to stop. Its standard
    error is appended to the file ``log``, up to ``LOG_BYTES``, or merged into its "output".
    ``confined`` denies system calls such as ``ptrace`` and ``mount`` (``seccomp.DENIED_CALLS``).
    Raises ``Unavailable`` if no process can be started.
    """
    given = build_environment(environment or {}, inherit, threads)
    command, child_environment = spawn_command(
        [*target_command(target), *arguments], given, nice, confined=confined
    )
    loop = asyncio.get_running_loop()
    turn = _turns.setdefault(loop, asyncio.Lock())
    await turn.acquire()
    begun = time.monotonic()
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if log == "output" else asyncio.subprocess.PIPE,
            env=child_environment,
            start_new_session=True,
            limit=line_limit,
        )
    except OSError as error:
        raise Unavailable("No process can be started now", retry_after=1) from error
    finally:  # of many at once each leaves the loop as much time as it took
        loop.call_later(time.monotonic() - begun, turn.release)
    errors = asyncio.create_task(read_tail(process.stderr, None if log == "output" else log))
    child = Child(process, errors)
    try:
        yield child
    finally:
        ending = asyncio.ensure_future(child.end(grace))
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:  # it must not leave a child or tasks behind
            await wait_out(ending)
            if ending.cancelled():  # the loop ends
                child.abandon()
            raise


def spawn_command(
    what: Sequence[str], given: Mapping[str, str], nice: int = 0, *, confined: bool = True
) -> tuple[list[str], dict[str, str]]:
    """Return the command line and environment by which ``processes.child_main`` runs a target."""
    path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109 - as the import system
    command = [sys.executable, "-P", "-m", "mataserver.processes.child_main", str(os.getpid())]
    command += [str(nice), str(int(confined)), given.get("PYTHONPATH", ""), *what]
    return command, {**given, "PYTHONPATH": os.pathsep.join(path)}


def build_environment(
    given: Mapping[str, str | None], inherit: Sequence[str], threads: int
) -> dict[str, str]:
    """Return the environment of a child: see ``run_process``."""
    thread_limits = dict.fromkeys(_THREAD_VARIABLES, str(threads)) if threads else {}
    merged: dict[str, str | None] = {**variables.for_child(inherit), **thread_limits, **given}
    return {name: value for name, value in merged.items() if value is not None}


def replace_environment(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Return the ``environment`` argument that replaces a child's environment entirely."""
    return {**dict.fromkeys(os.environ), **environment}


def target_command(target: str | Sequence[str] | Callable[..., None]) -> list[str]:
    """Return a target in the form of the child's command line."""
    if isinstance(target, str):
        return ["module", target]
    if callable(target):
        if "<" in target.__qualname__ or target.__module__ == "__main__":
            raise ValueError("a child's function must stand at the top level of a module")
        return ["function", f"{target.__module__}:{target.__qualname__}"]
    return ["program", *target]


async def read_tail(stream: StreamReader | None, log: Path | None) -> bytes:
    """Read a stream to its end, copying it to a log if given; return its tail."""
    tail, room = b"", LOG_BYTES
    if stream is None:  # merged into the output
        return tail
    while part := await stream.read(TAIL_BYTES):
        tail = (tail + part)[-TAIL_BYTES:]
        if log is not None and room > 0:
            room -= len(part)
            with contextlib.suppress(OSError):  # a full disk must not block the child
                await asyncio.to_thread(_append, log, part)
    return tail


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
