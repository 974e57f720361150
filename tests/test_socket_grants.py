"""WebSockets that services serve in a way of their own, and what was shown for them."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from conftest import POINTS
from mataserver import testing
from service_plugins import folder, plugin
from stream_peers import RawPeer

__all__ = ["folder", "plugin"]

KEY = "camera-key"
GENEROUS = 20.0
OWN = """
from mataserver import PRINCIPAL, Route

class Service(Base):
    def routes(self):
        return [
            Route("GET", "/v1/own", self.own, needs="infer", socket=True),
            Route("GET", "/v1/ours", self.ours, needs="infer", socket=True),
            Route("POST", "/v1/over", self.over, needs="admin"),
        ]

    async def own(self, request):
        self.who = request[PRINCIPAL].id
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    async def ours(self, request):
        self.who = request[PRINCIPAL].id
        async with self.ctx.http.socket(request) as socket:
            async for message in socket:
                await socket.send(message)

    async def over(self, request):
        self.ctx.sign_out(self.who)
        return web.Response()
"""


@pytest.mark.parametrize("path", ["own", "ours"])
async def test_a_socket_ends_with_what_was_shown(plugin, folder, path):
    """Whichever way a service has it: it is closed with 4001, its client told why, at once."""
    keys = ["test-key", {"key": KEY, "name": "camera", "scopes": ["infer"]}]
    points = [*POINTS, plugin(OWN)]
    async with (
        testing.serving(folder, entry_points=points, engine="thread", api_keys=keys) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
        http.ws_connect(f"/v1/{path}", headers={"Authorization": f"Bearer {KEY}"}) as socket,
    ):
        await socket.send_str("still there")
        assert await socket.receive_str(timeout=GENEROUS) == "still there"
        async with http.post("/v1/over") as response:
            assert response.status == 200
        message = await socket.receive(timeout=GENEROUS)
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert (socket.close_code, message.extra) == (4001, "what you showed counts no more")
        async with asyncio.timeout(GENEROUS):
            while server.composed.lifecycle.active:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", ["own", "ours"])
async def test_a_frame_without_a_mask(plugin, folder, path):
    """Whichever way a service has it: it is closed with 1002."""
    points = [*POINTS, plugin(OWN)]
    async with testing.serving(folder, entry_points=points, engine="thread") as server:
        url = f"{server.url}/v1/{path}?token={server.key}"
        async with RawPeer.connected(url) as peer:
            await peer.send(b"\x81\x06secret")
            assert await peer.close_code() == 1002


async def test_who_still_sends_is_told_why(plugin, folder):
    """The client's close message is waited for: what it sends before must not reset all."""
    keys = ["test-key", {"key": KEY, "name": "camera", "scopes": ["infer"]}]
    shown = {"Authorization": f"Bearer {KEY}"}
    async with (
        testing.serving(
            folder, entry_points=[*POINTS, plugin(OWN)], engine="thread", api_keys=keys
        ) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
        http.ws_connect("/v1/ours", headers=shown, autoclose=False) as socket,
    ):
        await socket.send_str("still there")
        assert await socket.receive_str(timeout=GENEROUS) == "still there"
        async with http.post("/v1/over") as response:
            assert response.status == 200
        message = await socket.receive(timeout=GENEROUS)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 4001)
        for _ in range(100):  # turns of the loop that the server runs in, too
            await asyncio.sleep(0)
        assert server.composed.lifecycle.active == 1
        await socket.send_str("sent before the close message was read")
        await socket.close()
        async with asyncio.timeout(GENEROUS):
            while server.composed.lifecycle.active:
                await asyncio.sleep(0.01)
