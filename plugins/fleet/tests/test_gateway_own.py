"""This server's own models behind the gateway: by every protocol, without a socket, and no more."""

from __future__ import annotations

import asyncio
import io

import aiohttp
import psutil
import pytest
from test_gateway_clients import Place
from test_gateway_mataservers import INLINE, PICTURE, PNG, TENSOR, port_of
from test_gateway_streams import picture

from mataserver.testing import installed
from triton_clients import triton

pytestmark = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
MODELS = [{"model": "fake-detect", "task": "detect"}, {"model": "fake-track", "task": "track"}]
INFER = "/v2/models/fake-detect/infer"


class Own:
    """A server with an application for each of its own models, and a consumer of each."""

    def __init__(self, client, http):
        self.client, self.http, self.keys = client, http, {}

    async def route(self, model, *protocols):
        """Offer a model."""
        await self.client.made("/api/apps", {"name": model})
        path = f"/api/apps/{model}/routes/{model}"
        await self.client.made(path, {"protocols": list(protocols)})
        made = await self.client.made(f"/api/apps/{model}/consumers/of-{model}")
        self.keys[model] = made["key"]

    async def ask(self, path, method="POST", model="fake-detect", **more):
        """Ask as the consumer, once the server listens."""
        fields = {"apikey": self.keys[model], **more.pop("headers", {})}
        where = f"/gateway/{model}{path}"
        async with asyncio.timeout(30):
            while True:
                status, answer = await self.client.ask(method, where, "", headers=fields, **more)
                if status != 503:
                    return status, answer
                await asyncio.sleep(0.02)

    @property
    def sockets(self):
        """How many connections lead to the server's port: all of them are of this process."""
        port = port_of(self.client.server)
        every = psutil.Process().net_connections("tcp")
        return len([e for e in every if e.raddr and e.raddr.port == port and e.laddr.port != port])


@pytest.fixture
async def own(serve):
    """A server whose own models consumers ask."""
    plugins = {"fleet": {"gateway": {"grpc_port": 0, "probe": 0.1}}, "oip": {"grpc_port": 0}}
    async with (
        serve(models=MODELS, points=installed("oip"), plugins=plugins) as client,
        aiohttp.ClientSession() as http,
    ):
        made = Own(client, http)
        await made.route("fake-detect", "http", "grpc")
        await made.route("fake-track", "http", "ws")
        yield made


async def test_by_every_protocol(own):
    """Tensors, pictures and frames: no connection is made but the client's own."""
    for _ in range(3):
        status, answer = await own.ask(INFER, json={"inputs": [TENSOR]})
        assert (status, answer["model_name"]) == (200, "fake-detect"), answer
    status, found = await own.ask("/v1/infer", json={"model": "fake-detect", "image": INLINE})
    assert (status, len(found["detections"])) == (200, 1), found
    assert (await own.ask("/v1/infer?model=fake-detect", **PICTURE))[0] == 200
    assert (await own.ask("/v2/health/ready", "GET"))[0] == 200
    status, made = await own.ask("/v1/sessions", model="fake-track", json={"model": "fake-track"})
    assert status == 201, made
    fields = {"apikey": own.keys["fake-track"]}
    async with own.http.ws_connect(made["ws_url"], headers=fields) as socket:
        for number in (1, 2, 3):
            await socket.send_bytes(picture(10 * number))
            answer = await socket.receive_json(timeout=30)
            assert answer["detections"][0]["track_id"] == number
        assert own.sockets == 2
        path = f"/v1/sessions/{made['session_id']}"
        assert (await own.ask(path, "DELETE", "fake-track"))[0] == 204
        assert (await socket.receive(timeout=30)).type is aiohttp.WSMsgType.CLOSE
    _, usage = await own.client.ask("GET", "/api/usage")
    assert "of-fake-detect,fake-detect,fake-detect,5,0," in usage


async def test_by_grpc(own):
    """At the port of the inference protocol, with the gateway's key."""
    await own.ask(INFER, json={"inputs": [TENSOR]})
    server = own.client.server
    place = Place(server.url, own.keys["fake-detect"], server.service("fleet").grpc_port)
    async with triton("grpc-aio", place) as client:
        found = await client.infer("fake-detect", client.encoded(PNG))
        assert found.as_numpy("count").tolist() == [1]


@pytest.mark.parametrize(("size", "status"), [(9_000_000, 400), (60_000_000, 413)])
async def test_long_bodies(own, size, status):
    """One that passes through is held to the server's own limit, and tells what the model says."""
    await own.ask(INFER, json={"inputs": [TENSOR]})
    body = {**PICTURE, "data": io.BytesIO(bytes(size))}
    assert (await own.ask("/v1/infer?model=fake-detect", **body))[0] == status
    assert (await own.ask(INFER, json={"inputs": [TENSOR]}))[0] == 200


async def test_nothing_but_what_the_application_offers(own):
    """Neither another model of the server, nor anything else of it, however it is spelt."""
    await own.ask(INFER, json={"inputs": [TENSOR]})
    other = {"model": "fake-track", "image": INLINE}
    assert (await own.ask("/v1/infer", json=other))[0] == 404
    assert (await own.ask("/v1/infer?model=fake-track", **PICTURE))[0] == 404
    assert (await own.ask("/v1/sessions", json={"model": "fake-track"}))[0] == 404
    for method, path in (
        ("GET", "/v1/models"),
        ("GET", "/v1/settings"),
        ("GET", "/api/apps"),
        ("POST", "/v2/repository/index"),
        ("GET", "/v2/models/fake-track"),
        ("GET", "/v2/models/fake-detect/../fake-track"),
        ("GET", "/v2/models/fake-detect/%2e%2e/fake-track/ready"),
        ("POST", "/v2/models/fake-detect/load"),
    ):
        assert (await own.ask(path, method))[0] in {404, 405}, path
    assert (await own.client.ask("POST", INFER, own.keys["fake-detect"]))[0] in {401, 403}


async def test_a_host_that_is_the_servers_own(own):
    """An application at the address of the server does not catch what the gateway asks it."""
    change, by = {"host": "127.0.0.1"}, {"Host": "mata.example"}
    patch = own.client.ask("PATCH", "/api/apps/fake-detect", json=change, headers=by)
    assert (await patch)[0] == 200
    fields = {"apikey": own.keys["fake-detect"]}
    async with asyncio.timeout(30):
        while True:
            status, answer = await own.client.ask(
                "POST", INFER, "", headers=fields, json={"inputs": [TENSOR]}
            )
            if status != 503:
                break
    assert (status, answer["model_name"]) == (200, "fake-detect"), answer
