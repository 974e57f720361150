"""A connection that breaks: what stands between a client and a server, and cuts it."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit


class CuttingProxy:
    """Passes connections on to ``target``, and cuts each after ``limit`` bytes in either direction.

    Without a target it hangs up. ``passed`` is how many bytes it passed on, ``cuts`` how often it
    cut; ``at_cut()`` is called then.
    """

    def __init__(self):
        self.target = None
        self.limit = None
        self.passed = 0
        self.cuts = 0
        self.at_cut = lambda: None
        self.url = ""

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.url = "http://127.0.0.1:{1}".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *exc):
        self._server.close()

    async def _handle(self, reader, writer):
        with contextlib.closing(writer):
            if self.target is None:
                return
            parts = urlsplit(self.target)
            there, away = await asyncio.open_connection(parts.hostname, parts.port)
            with contextlib.closing(away):
                ways = [self._pass(reader, away), self._pass(there, writer)]
                tasks = [asyncio.ensure_future(way) for way in ways]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()

    async def _pass(self, reader, writer):
        seen = 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                seen += len(data)
                if self.limit is not None and seen > self.limit:
                    self.cuts += 1
                    self.at_cut()
                    return
                writer.write(data)
                await writer.drain()
                self.passed += len(data)
