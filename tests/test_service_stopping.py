"""A service is told that the server shuts down, so that what it does for long ends soon."""

from __future__ import annotations

import asyncio

import aiohttp

from mataserver import testing
from service_plugins import folder, plugin

__all__ = ["folder", "plugin"]

ENDLESS = """
import asyncio
from mataserver import Unavailable

class Service(Base):
    def routes(self):
        return [web.get("/v1/steps", self.steps), web.get("/v1/socket", self.socket)]

    async def steps(self, request):
        self.note("began")
        while not self.ctx.stopping.is_set():
            await asyncio.sleep(0.01)
        raise Unavailable("The server is shutting down", retry_after=5)

    async def socket(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await self.ctx.stopping.wait()
        await socket.close(code=1001)
        return socket

    async def __aexit__(self, *exc):
        self.note("left" if self.ctx.stopping.is_set() else "never told")
"""


async def test_a_service_sees_that_the_server_stops(plugin, folder):
    """``Context.stopping`` is set first; what runs ends by itself, and then the service is left."""
    server = testing.serving(folder, entry_points=[plugin(ENDLESS)], drain_timeout=300)
    served = await server.__aenter__()
    async with aiohttp.ClientSession(served.url, headers=served.headers) as http:
        asked = asyncio.create_task(http.get("/v1/steps"))
        socket = await http.ws_connect("/v1/socket")
        while not (folder / "events").exists():
            await asyncio.sleep(0.01)
        assert not served.composed.lifecycle.is_draining
        stopping = asyncio.create_task(server.__aexit__(None, None, None))
        answer = await asked
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert await answer.json() == {"detail": "The server is shutting down"}
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1001
        await stopping
    assert (folder / "events").read_text().split() == ["began", "left"]
