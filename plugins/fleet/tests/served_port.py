"""Where a stand-in listens, which ends without losing a connection that it is just taking."""

from __future__ import annotations

import asyncio
import socket

from aiohttp import web

_TURNS = 3
"""Turns of the loop from taking a connection until it is one of the runner's."""


class ServedPort:
    """A port of 127.0.0.1 that a runner serves from ``start`` to ``end``."""

    def __init__(self, runner):
        self._runner = runner
        self._socket = None
        self.port = 0

    async def start(self, port):
        """Listen on a port, 0 for a free one."""
        await self._runner.setup()
        self._socket = socket.create_server(("127.0.0.1", port))
        await web.SockSite(self._runner, self._socket).start()
        self.port = self._socket.getsockname()[1]

    async def end(self):
        """Take no more connections, then close those that there are.

        asyncio's own server, closed between taking a connection and serving it, forgets it: its
        transport is never closed, which a test that runs then is blamed for.
        """
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        await self._runner.cleanup()
