"""A way to a server that breaks, or falls silent as one does through a firewall that forgot it."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit


class SilentWay:
    """A proxy to a server. ``url`` leads through it once it is entered.

    ``sent`` is called with what each client sends; where it returns False that connection is cut.
    """

    def __init__(self, url, sent=lambda _data: True):
        self._place = urlsplit(url)
        self._sent = sent
        self._passing = set()
        self._tasks = set()
        self._writers = set()
        self._open = True
        self.takes_new = True

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        name, at, _ = self._place.netloc.rpartition("@")
        self.url = self._place._replace(netloc=f"{name}{at}127.0.0.1:{port}").geturl()
        return self

    async def __aexit__(self, *exc):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self):
        """Break all connections, and those that come, until it speaks."""
        self._open = False
        for writer in self._writers:
            writer.transport.abort()

    def silence(self, *, new=False):
        """Pass nothing more on for those who are connected; with ``new``, for others neither."""
        self.takes_new = not new
        for passing in self._passing:
            passing.clear()

    def speak(self):
        """Pass on again what new connections say, and what was kept back."""
        self.takes_new = self._open = True
        for passing in self._passing:
            passing.set()

    async def _connect(self, reader, writer):
        if not self._open:
            writer.transport.abort()
            return
        self._tasks.add(asyncio.current_task())
        self._writers.add(writer)
        passing = asyncio.Event()
        self._passing.add(passing)
        if self.takes_new:
            passing.set()
        onward = await asyncio.open_connection(self._place.hostname, self._place.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, onward[1], passing, self._sent))
                group.create_task(self._copy(onward[0], writer, passing, lambda _data: True))
        except* OSError:
            pass
        finally:
            self._writers.discard(writer)
            for each in (writer, onward[1]):
                each.transport.abort()

    async def _copy(self, reader, writer, passing, sent):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                await passing.wait()
                if not sent(data):
                    break
                writer.write(data)
        raise ConnectionResetError
