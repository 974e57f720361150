"""The thread of a worker process that reads the socket, so that its end is noticed at once."""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.engines import wire
    from mataserver.engines.line import Line

log = logging.getLogger("mataserver.worker")


class Listener:
    """The thread that reads the socket, unless it is paused: then its caller does."""

    def __init__(self, line: Line, dispatch: Callable[[wire.Received], None]) -> None:
        self._line = line
        self._dispatch = dispatch
        self._reading = threading.Lock()
        self._running = threading.Event()
        self._wake, self._waker = socket.socketpair()
        self._running.set()
        threading.Thread(target=self._listen, name="listener", daemon=True).start()

    @property
    def paused(self) -> bool:
        """Whether the caller reads in its place."""
        return not self._running.is_set()

    def pause(self) -> None:
        """Stop reading; it reads no more once this returns."""
        self._running.clear()
        self._waker.send(b"x")
        self._reading.acquire()

    def resume(self) -> None:
        """Read again."""
        self._reading.release()
        self._running.set()

    def _listen(self) -> None:
        try:
            self._follow()
        except BaseException:
            log.exception("what the server says cannot be read")
        os._exit(1)  # at once: a worker that hears nothing would be taken for one that hangs

    def _follow(self) -> None:
        waiting = select.poll()
        waiting.register(self._line.sock, select.POLLIN)
        waiting.register(self._wake, select.POLLIN)
        while True:
            self._running.wait()
            with self._reading:
                while self._running.is_set():
                    received = self._line.take()
                    if received is not None:
                        self._dispatch(received)
                        del received  # perhaps with a large picture
                        continue
                    if any(fd == self._wake.fileno() for fd, _ in waiting.poll()):
                        self._wake.recv(64)
                    elif not self._line.fetch():
                        os._exit(0)  # the server is gone: nobody waits, a hung model holds nothing
