"""The server's side of a zygote: starts it, requests forks, observes workers' exits."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from mataserver import logs
from mataserver.engines.edition import EDITION
from mataserver.errors import Unavailable, process_start_errors
from mataserver.processes.child import build_environment, spawn_command, target_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from io import FileIO

    from mataserver.engines.work import Placement

log = logging.getLogger("mataserver.process")

STOP_GRACE = 5.0


class ZygoteHandle:
    """The server's end of a zygote process."""

    def __init__(
        self, placement: Placement, log_level: str, log_format: str, inherit: Sequence[str] = ()
    ) -> None:
        self._placement = placement
        self._inherit = inherit
        self._logging = (log_level, log_format)
        self._tokens = itertools.count(1)
        self._forks: dict[int, asyncio.Future[int]] = {}
        self._children: dict[int, Callable[[str], None]] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._output_task: asyncio.Task[None] | None = None
        self.linger_timer: asyncio.TimerHandle | None = None

    @property
    def is_alive(self) -> bool:
        """Whether it can still fork."""
        return self._control is not None

    @property
    def is_idle(self) -> bool:
        """Whether it has neither children nor pending forks."""
        return not self._children and not self._forks

    def start(self) -> None:
        """Start the process; it does its imports in the background."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)  # noqa: FBT003 - socket's own signature
        options = {
            "path": [entry or os.getcwd() for entry in sys.path],  # noqa: PTH109 - as imports do
            "preload": list(self._placement.preload),
            "log_level": self._logging[0],
            "log_format": self._logging[1],
        }
        module, placement = target_command("mataserver.engines.zygote"), self._placement
        command, environment = spawn_command(
            [*module, str(theirs.fileno()), json.dumps(options)],
            build_environment(
                {"OPENBLAS_NUM_THREADS": "1", **dict(placement.environment)}, self._inherit, 0
            ),
            confined=placement.confined,
        )
        with (
            contextlib.ExitStack() as failed,
            theirs,
            self._output_pipe() as output,
            process_start_errors(),
        ):
            failed.callback(ours.close)
            self._process = subprocess.Popen(  # noqa: S603 - our own module, fixed arguments
                command,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
            failed.pop_all()
        self._control = ours
        asyncio.get_running_loop().add_reader(ours, self._on_readable)

    @contextlib.contextmanager
    def _output_pipe(self) -> Iterator[int]:
        """Yield the descriptor for the output of the process and its children: a pipe to our log.

        A native library does not print JSON, and a process that holds our stderr could truncate its
        file.
        """
        reading, writing = os.pipe()
        reader = os.fdopen(reading, "rb", buffering=0)
        loop = asyncio.get_running_loop()
        self._output_task = loop.create_task(_log_output(reader))
        try:
            yield writing
        finally:
            os.close(writing)

    async def fork(self, descriptors: list[int], on_exit: Callable[[str], None]) -> int:
        """Fork a child that serves a socket, optionally with shared memory; return its pid.

        ``on_exit`` is called with the reason of its end.
        """
        await asyncio.shield(self._ready)
        token = next(self._tokens)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._forks[token] = future
        try:
            if self._control is None:
                raise Unavailable("The plugin's worker process could not be started")
            socket.send_fds(self._control, [json.dumps({"fork": token}).encode()], descriptors)
            pid = await future
            self._children[pid] = on_exit
        finally:
            self._forks.pop(token, None)
        return pid

    def kill(self, pid: int) -> None:
        """Ask the zygote to kill one of its children."""
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.send(json.dumps({"kill": pid}).encode())

    async def close(self) -> None:
        """End the zygote and its children."""
        self._on_end("it was stopped")
        if self._process is not None:
            try:
                await asyncio.to_thread(self._process.wait, STOP_GRACE)
            except subprocess.TimeoutExpired:
                self._kill_all()
                await asyncio.to_thread(self._process.wait)
        if self._output_task is not None:
            self._output_task.cancel()
            await asyncio.wait([self._output_task])

    def _on_readable(self) -> None:
        if self._control is None:
            return
        try:
            data = self._control.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._kill_all()
            self._on_end("its zygote ended")
            return
        self._on_message(json.loads(data))

    def _kill_all(self) -> None:
        """Kill a zygote that did not exit, with the processes still in its group."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _on_message(self, message: dict[str, Any]) -> None:
        if message.get("ready") == EDITION:
            self._ready.set_result(None)
        elif "ready" in message:
            self._kill_all()
            self._on_end("mataserver was changed on disk while it runs; restart the server")
        elif "forked" in message:
            future = self._forks.get(message["forked"])
            if future is not None and not future.done():
                future.set_result(message["pid"])
            else:
                self.kill(message["pid"])
        elif "failed" in message:
            future = self._forks.get(message["failed"])
            if future is not None and not future.done():
                future.set_exception(Unavailable("No worker process can be started now"))
        elif "exited" in message:
            on_exit = self._children.pop(message["exited"], None)
            if on_exit is not None:
                on_exit(_describe(message["status"]))

    def _on_end(self, reason: str) -> None:
        control, self._control = self._control, None
        if control is None:
            return
        asyncio.get_running_loop().remove_reader(control)
        control.close()
        error = Unavailable(f"The plugin's worker process could not be started: {reason}")
        waiting: list[asyncio.Future[Any]] = [self._ready, *self._forks.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(error)
                future.exception()
        self._children.clear()
        if self._process is not None and self._process.poll() is None:
            asyncio.get_running_loop().run_in_executor(None, self._process.wait)


async def _log_output(reader: FileIO) -> None:
    """Log a process's output line by line, until it and its children have closed the pipe."""
    stream = asyncio.StreamReader(limit=2 * logs.MAX_LINE)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), reader
    )
    try:
        while not stream.at_eof():
            try:
                line = await stream.readuntil(b"\n")
            except asyncio.IncompleteReadError as error:
                line = error.partial
            except asyncio.LimitOverrunError:
                line = await stream.read(logs.MAX_LINE)
            logs.log_line(line.decode("utf-8", "replace"))
    finally:
        transport.close()


def _describe(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
