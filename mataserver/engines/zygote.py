"""The zygote: a small process per plugin that has imported its framework, and forks workers.

It stays single-threaded, holds no model, and inherits only its control socket from the server. When
the server dies, for whatever reason, that socket closes; the zygote then kills its workers with all
their descendants, and exits. Until its imports are done the kernel kills it with the server.

A worker adopts orphaned descendants, whatever session they have moved to. When the worker exits,
they are reparented to the zygote, which kills them.

The zygote also removes each worker's temporary directory after its end, and at its start those that
killed processes left. The owner holds a lock on its directory (flock(2)), shared with the processes
forked from it. The kernel releases it when the last of them exits, however it does, in whatever
namespace.

Control messages are JSON, one per datagram: ``{"fork": token}`` with the worker's socket and shared
memory attached, ``{"kill": pid}``; answered by ``{"ready": edition}``, ``{"forked": token, "pid":
pid}`` and ``{"exited": pid, "status": wait status}``, or ``{"failed": token}``.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import logging
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from mataserver import logs
from mataserver.engines.edition import EDITION
from mataserver.processes import kernel

PREFIX = "mataserver-worker-"
_ATTEMPTS = 3
CONTROL_BYTES = 65_536
OOM_SCORE = 500
"""OOM score of workers: killed before the server, but after background processes."""
EXIT_SECONDS = 5.0
"""Timeout for killed processes to exit: one may be stuck in the kernel, on a disk or a GPU."""

log = logging.getLogger("mataserver.zygote")


class ScratchDirectory:
    """A temporary directory; ``path`` is None if none can be created."""

    def __init__(self) -> None:
        """Create and lock the directory."""
        self.path: str | None = None
        self._lock_fd = -1
        with contextlib.suppress(OSError):
            for _ in range(_ATTEMPTS):
                path = tempfile.mkdtemp(prefix=PREFIX)
                lock_fd = _try_lock(path)
                if lock_fd is not None and os.path.isdir(path):  # noqa: PTH112 - text it is
                    self.path, self._lock_fd = path, lock_fd
                    return
                if lock_fd is not None:  # a concurrent sweep removed it before it was locked
                    os.close(lock_fd)

    def remove(self) -> None:
        """Remove the directory with its contents; idempotent."""
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock_fd)
            self.path = None

    def close_inherited(self) -> None:
        """Close the inherited descriptor of a sibling's directory, without removing it."""
        if self.path is not None:
            os.close(self._lock_fd)
            self.path = None


def remove_stale() -> None:
    """Remove the directories of processes that have exited."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # removed concurrently
            if path.lstat().st_uid == os.getuid() and (lock_fd := _try_lock(str(path))) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock_fd)


def _try_lock(path: str) -> int | None:
    """Return a descriptor that holds a directory's lock; None if another process holds it."""
    try:
        lock_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock_fd)
        return None
    return lock_fd


def preload(modules: list[str]) -> None:
    """Import what every child needs; an import that fails is left to the child's own load.

    The imported objects are frozen: a garbage collection writes to every object it traverses, and
    so unshared 95 MB of torch and transformers per worker and paused it for half a second.
    """
    gc.disable()
    importlib.import_module("mataserver.engines.worker_main")
    importlib.import_module("mataserver.processes.landlock")
    threads = threading.active_count()
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException:  # also sys.exit, and a panic of a library in Rust
            log.exception("could not preload %s", name)
        if (running := threading.active_count()) > threads:
            threads = running
            log.warning(
                "preload: %s starts threads, which workers do not have: they may wait for ever",
                name,
            )
    gc.freeze()
    gc.enable()


class Zygote:
    """The main loop: fork on request, reap, report."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, ScratchDirectory] = {}
        self._wakeup_read, self._wakeup_write = socket.socketpair()
        self._wakeup_read.setblocking(False)  # noqa: FBT003 - socket's own signature
        self._wakeup_write.setblocking(False)  # noqa: FBT003

    def run(self) -> None:
        """Serve until the server closes the control socket."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        self._send({"ready": EDITION})
        while True:
            readable, _, _ = select.select([self._control, self._wakeup_read], [], [])
            if self._wakeup_read in readable:
                self._wakeup_read.recv(4096)
                self._reap()
            if self._control in readable and not self._serve():
                break
        self._exit()

    def _exit(self) -> NoReturn:
        """Kill every descendant, then exit."""
        directories, self._children = list(self._children.values()), {}
        until = time.monotonic() + EXIT_SECONDS
        while self._reap() and time.monotonic() < until:
            if select.select([self._wakeup_read], [], [], 0.1)[0]:
                self._wakeup_read.recv(4096)
        for directory in directories:
            directory.remove()
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
                self._send({"failed": message["fork"]})
            finally:
                for fd in fds:
                    os.close(fd)
        return True

    def _fork(self, token: int, fds: list[int]) -> None:
        if not fds:
            raise OSError("no socket was attached")
        parent, directory = os.getpid(), ScratchDirectory()
        try:
            pid = os.fork()
        except OSError:
            directory.remove()
            raise
        if pid == 0:
            self._become_worker(parent, fds, directory)
        self._children[pid] = directory
        self._send({"forked": token, "pid": pid})

    def _become_worker(self, parent: int, fds: list[int], directory: ScratchDirectory) -> None:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            kernel.die_with_parent(parent)
            kernel.adopt_orphans()
            kernel.set_oom_score(OOM_SCORE)
            if directory.path is not None:
                os.environ["TMPDIR"] = tempfile.tempdir = directory.path
            for each in (self._control, self._wakeup_read, self._wakeup_write):
                each.close()
            for other in self._children.values():
                other.close_inherited()
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
                self._send({"exited": pid, "status": status})
        for pid, parent in kernel.process_parents():
            if parent == os.getpid() and pid not in self._children:
                os.kill(pid, signal.SIGKILL)
        return True

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:  # the server has exited
            self._exit()


def main() -> None:
    """Run as a module of ``processes.child_main``, with ``FD OPTIONS``."""
    fd, options = int(sys.argv[1]), json.loads(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.path[:] = options["path"]
    logs.configure(options["log_level"], options["log_format"])
    preload(options["preload"])
    remove_stale()
    kernel.adopt_orphans()
    kernel.survive_parent()  # from here on, the closed socket signals the server's end
    Zygote(socket.socket(fileno=fd)).run()
