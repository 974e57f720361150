"""The zygote: a small process per plugin that has imported its framework, and forks workers.

It stays single-threaded, holds no model, and inherits only its control socket from the server. When
the server dies, for whatever reason, that socket closes; the zygote then kills its workers with all
their descendants, and exits. Until its imports are done the kernel kills it with the server.

A worker adopts orphaned descendants, whatever session they have moved to. When the worker exits,
they are reparented to the zygote, which kills them.

The zygote also removes each worker's temporary directory after its end.

Control messages are JSON, one per datagram: ``{"fork": token}`` with the worker's socket and shared
memory attached, ``{"kill": pid}``; answered by ``{"ready": true}``, ``{"forked": token, "pid":
pid}`` and ``{"exited": pid, "status": wait status}``, or ``{"failed": token}``.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import select
import signal
import socket
import sys
import tempfile
import time
from typing import Any, NoReturn

from mataserver import logs
from mataserver.engines import scratch
from mataserver.engines.scratch import Scratch
from mataserver.processes import kernel, seccomp

CONTROL_BYTES = 65_536
OOM_SCORE = 500
"""OOM score of workers: killed before the server, but after background processes."""
END_SECONDS = 5.0
"""Timeout for killed processes to exit: one may be stuck in the kernel, on a disk or a GPU."""

log = logging.getLogger("mataserver.zygote")


def preload(modules: list[str]) -> None:
    """Import what every child needs; an import that fails is left to the child's own load.

    The imported objects are frozen: a garbage collection writes to every object it traverses, and
    so unshared 95 MB of torch and transformers per worker and paused it for half a second.
    """
    gc.disable()
    importlib.import_module("mataserver.engines.worker_main")
    importlib.import_module("mataserver.processes.landlock")
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:
            log.exception("could not preload %s", name)
    gc.freeze()
    gc.enable()


class Zygote:
    """The main loop: fork on request, reap, report."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, Scratch] = {}
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)  # noqa: FBT003 - socket's own signature
        self._waker.setblocking(False)  # noqa: FBT003

    def run(self) -> None:
        """Serve until the server closes the control socket."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._say({"ready": True})
        while True:
            readable, _, _ = select.select([self._control, self._wake], [], [])
            if self._wake in readable:
                self._wake.recv(4096)
                self._reap()
            if self._control in readable and not self._serve():
                break
        self._end()

    def _end(self) -> NoReturn:
        """Kill every descendant, then exit."""
        places, self._children = list(self._children.values()), {}
        until = time.monotonic() + END_SECONDS
        while self._reap() and time.monotonic() < until:
            if select.select([self._wake], [], [], 0.1)[0]:
                self._wake.recv(4096)
        for place in places:
            place.remove()
        os._exit(0)

    def _serve(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, CONTROL_BYTES, 2)
        except OSError:  # the server exited with unread messages
            return False
        if not data:
            return False
        message = json.loads(data)
        if "kill" in message and message["kill"] in self._children:
            os.kill(message["kill"], signal.SIGKILL)
        elif "fork" in message:
            try:
                self._fork(message["fork"], fds)
            except OSError as error:
                log.error("cannot fork a worker: %s", error)  # noqa: TRY400 - a limit, not a bug
                self._say({"failed": message["fork"]})
            finally:
                for fd in fds:
                    os.close(fd)
        return True

    def _fork(self, token: int, fds: list[int]) -> None:
        if not fds:
            raise OSError("no socket was attached")
        parent, place = os.getpid(), Scratch()
        try:
            pid = os.fork()
        except OSError:
            place.remove()
            raise
        if pid == 0:
            self._become_worker(parent, fds, place)
        self._children[pid] = place
        self._say({"forked": token, "pid": pid})

    def _become_worker(self, parent: int, fds: list[int], place: Scratch) -> None:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            kernel.die_with(parent)
            kernel.adopt_orphans()
            kernel.be_killed_first(OOM_SCORE)
            if place.path is not None:
                os.environ["TMPDIR"] = tempfile.tempdir = place.path
            for each in (self._control, self._wake, self._waker):
                each.close()
            for other in self._children.values():
                other.let_go()
            from mataserver.engines import worker_main

            with socket.socket(fileno=fds[0]) as sock:
                worker_main.main(sock, fds[1] if len(fds) > 1 else None)
            status = 0
        except BaseException:
            log.exception("the worker failed")
        finally:
            logging.shutdown()
            os._exit(status)

    def _reap(self) -> bool:
        """Reap exited children, and kill orphans of workers; return whether any child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                break
            if pid in self._children:
                self._children.pop(pid).remove()
                self._say({"exited": pid, "status": status})
        for pid, parent in kernel.parents():
            if parent == os.getpid() and pid not in self._children:
                os.kill(pid, signal.SIGKILL)
        return True

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:  # the server has exited
            self._end()


def main() -> None:
    """Run as ``python -m mataserver.engines.zygote FD PARENT OPTIONS``."""
    fd, parent, options = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    kernel.die_with(parent)
    kernel.give_up_privileges()
    if options["confined"]:
        seccomp.restrict()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.path[:] = options["path"]
    logs.configure(options["log_level"], options["log_format"])
    preload(options["preload"])
    scratch.sweep()
    kernel.adopt_orphans()
    kernel.survive_parent()  # from here on, the closed socket signals the server's end
    Zygote(socket.socket(fileno=fd)).run()


if __name__ == "__main__":
    main()
