"""The gateway on a real server, before real sockets: what its tests are written with."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import io

import aiohttp
import gateway_plugin
import pytest
from upstreams import Upstream

from mataserver import RpcPort
from mataserver import plugins as plugin_host
from mataserver.testing import serving
from mataserver_fleet.gateway.snapshot import Application, Consumer, Route, Snapshot, Target

POINT = importlib.metadata.EntryPoint("gateway", "gateway_plugin", plugin_host.GROUP)
KEY = "key-of-anna"
INFER = "/gateway/shop/v2/models/cats/infer"


def consumer(number, key, **more):
    """Return a consumer with a key."""
    return Consumer(number, f"consumer-{number}", hashlib.sha256(key.encode()).digest(), **more)


def application(*targets, name="shop", model="cats", route=None, **more):
    """Return an application with one route to some servers."""
    made = Route(model, (f"/v2/models/{model}",), tuple(targets), **(route or {}))
    return Application(name, routes=(made,), **{"consumers": frozenset({1}), **more})


async def eventually(condition):
    """Wait until something holds."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


class GatewayRig:
    """A server with the gateway, and a client of it."""

    def __init__(self, server, gateway, ctx, http):
        self.server, self.gateway, self.ctx, self.http = server, gateway, ctx, http

    def rpc_port(self, **limits):
        """Return a free port of gRPC, with some of the server's limits changed."""
        server = dataclasses.replace(self.ctx.server, port=0, **limits)
        return RpcPort(server, self.ctx.stopping, 0)

    def follow(self, *applications, consumers=None):
        """Have the gateway go by some applications."""
        known = consumers or [consumer(1, KEY), consumer(2, "key-of-ben")]
        self.gateway.follow(Snapshot(applications, known))

    async def ready(self):
        """Wait until a server is known to have each model of the application."""
        async with asyncio.timeout(60):
            path = "/gateway/shop/v2/health/ready"
            while (await self.ask(path, b"", "GET"))[0] != 200:
                await asyncio.sleep(0.02)

    async def ask(self, path=INFER, body=b"{}", method="POST", key=KEY, headers=None, **more):
        """Ask; return the status, the answer and its header fields."""
        fields = {"apikey": key} if key else {}
        if isinstance(body, bytes) and len(body) > 1_000_000:
            body = io.BytesIO(body)
        async with self.http.request(
            method, self.server.url + path, data=body, headers={**fields, **(headers or {})}, **more
        ) as answer:
            raw = await answer.read()
            json = answer.content_type == "application/json" and raw
            return answer.status, (await answer.json() if json else raw), answer.headers

    async def exchange(self, *parts):
        """Send bytes as they are, with pauses; return everything that is answered."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for part in parts:
            writer.write(part)
            await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer

    @property
    def port(self):
        """Where the server listens."""
        return int(self.server.url.rpartition(":")[2])


@contextlib.asynccontextmanager
async def stand_on(folder, limits=None, **settings):
    """Run a server with the gateway, and some limits of the server."""
    given = {"probe": 0.1, "probe_timeout": 0.5, **settings}
    async with (
        serving(
            folder,
            entry_points=[POINT],
            plugins={"gateway": given},
            outbound_hosts=["127.0.0.1"],
            **(limits or {}),
        ) as server,
        aiohttp.ClientSession(auto_decompress=False) as http,
    ):
        yield GatewayRig(server, gateway_plugin.MADE[-1], gateway_plugin.CONTEXTS[-1], http)


@pytest.fixture
async def stand(tmp_path):
    """A gateway."""
    async with stand_on(tmp_path) as made:
        yield made


@pytest.fixture
async def upstreams():
    """Two servers that are well."""
    pair = [Upstream("one"), Upstream("two")]
    for each in pair:
        await each.start()
    yield pair
    for each in pair:
        await each.stop()


@pytest.fixture
def targets(upstreams):
    """The same as targets."""
    return [Target("127.0.0.1", each.port) for each in upstreams]
