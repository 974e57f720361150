"""Other mataservers behind the gateway: real ones, each with a key of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io

import aiohttp
from fleet_client import Client
from PIL import Image
from test_gateway_clients import Place

from mataserver.testing import FAKE, installed, serving
from triton_clients import grpc_port, triton

MODELS = [{"model": "fake-detect", "task": "detect"}, {"model": "fake-track", "task": "track"}]


def picture():
    """Return a picture as PNG."""
    out = io.BytesIO()
    Image.new("RGB", (20, 10)).save(out, "PNG")
    return out.getvalue()


PNG = picture()
INLINE = base64.b64encode(PNG).decode()
TENSOR = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [INLINE]}


@contextlib.asynccontextmanager
async def peer(folder, name):
    """Run a mataserver with the models, which knows the gateway by its key."""
    home = folder / name
    home.mkdir(exist_ok=True)
    given = {"engine": "thread", "models": MODELS, "api_key": f"secret-of-{name}"}
    plugins = {"oip": {"grpc_port": 0}}
    async with serving(
        home, entry_points=[FAKE, *installed("oip")], plugins=plugins, **given
    ) as made:
        yield made


def port_of(server):
    """Return where a server listens."""
    return int(server.url.rpartition(":")[2])


class Front:
    """The server with the gateway, and a consumer of it."""

    def __init__(self, client):
        self.client = client

    async def route(self, model="fake-detect", **more):
        """Offer a model, once its mataserver was seen; return the consumer's key."""
        await self.client.made("/api/apps", {"name": "shop", "resend": True})
        path = f"/api/apps/shop/routes/{model}"
        await until(lambda: self._made(path, more))
        self.key = (await self.client.made("/api/apps/shop/consumers/till"))["key"]

    async def _made(self, path, more):
        status, answer = await self.client.ask("POST", path, json=more or None)
        assert status in {201, 404}, answer
        return status == 201

    async def ask(self, path, method="POST", **more):
        """Ask as the consumer; return status and answer."""
        headers = {"apikey": self.key, **more.pop("headers", {})}
        return await self.client.ask(method, f"/gateway/shop{path}", "", headers=headers, **more)

    async def infer(self):
        """Return the status of an inference."""
        body = {"inputs": [TENSOR]}
        return (await self.ask("/v2/models/fake-detect/infer", json=body))[0]


@contextlib.asynccontextmanager
async def front(folder, *peers, points=(), **gateway):
    """Run a server with the gateway before some mataservers; it has no model itself."""
    home = folder / "front"
    home.mkdir(exist_ok=True)
    named = [{"host": "127.0.0.1", **each} for each in peers]
    given = {"probe": 0.1, "probe_timeout": 5.0, "mataservers": named, **gateway}
    settings = {"engine": "thread", "outbound_hosts": ["127.0.0.1"]}
    async with (
        serving(
            home,
            entry_points=[*installed("database", "accounts", "fleet"), *points],
            plugins={"fleet": {"gateway": given}},
            **settings,
        ) as served,
        aiohttp.ClientSession() as http,
    ):
        yield Front(Client(http, served))


async def until(true):
    """Wait until something is so."""
    async with asyncio.timeout(20):
        while not await true():
            await asyncio.sleep(0.05)


async def test_a_model_of_another_mataserver(tmp_path):
    """It is offered once its server lists it, and asked by each protocol; nobody sees the key."""
    async with (
        peer(tmp_path, "one") as one,
        front(tmp_path, {"port": port_of(one), "key": "secret-of-one"}) as shop,
    ):
        await shop.route()
        status, answer = await shop.ask("/v2/models/fake-detect/infer", json={"inputs": [TENSOR]})
        assert (status, answer["model_name"]) == (200, "fake-detect"), answer
        body = {"model": "fake-detect", "image": INLINE}
        status, found = await shop.ask("/v1/infer", json=body)
        assert (status, found["task"], len(found["detections"])) == (200, "detect", 1), found
        assert (await shop.ask("/v1/infer?model=fake-detect", **PICTURE))[0] == 200
        assert (await shop.ask("/v2/health/ready", "GET"))[0] == 200
        for path in ("/api/apps", "/api/tritons", "/metrics", "/ready"):
            await shop.client.ask("GET", path)
        assert not [each for each in shop.client.said if "secret-of-one" in each]
        _, metrics = await shop.client.ask("GET", "/metrics")
        labels = 'application="shop",consumer="till",model="fake-detect"'
        assert f"mataserver_gateway_requests_total{{{labels}}} 3.0" in metrics
        status, _ = await shop.client.ask("POST", "/api/apps/shop/routes/nobody")
        assert status == 404


PICTURE = {"data": PNG, "headers": {"Content-Type": "image/png"}}
TWICE = b'{"model": "fake-detect", "model": "fake-track", "image": "%b"}' % INLINE.encode()


def as_json(body, **headers):
    """Return a request with JSON as it is."""
    return {"data": body, "headers": {"Content-Type": "application/json", **headers}}


REFUSED = [
    ("?model=fake-track", PICTURE, 404),
    ("?model=fake-detect&model=fake-track", PICTURE, 400),
    ("?%6dodel=fake-track", PICTURE, 404),
    ("", PICTURE, 422),
    ("", {"json": {"model": "fake-track", "image": INLINE}}, 404),
    ("?model=fake-detect", {"json": {"model": "fake-track", "image": INLINE}}, 404),
    ("", as_json(TWICE), 404),
    ("", as_json(TWICE.replace(b'"model": "fake-t', b'"m\\u006fdel": "fake-t')), 404),
    ("", {"json": {"image": INLINE}}, 422),
    ("", {"json": [1]}, 422),
    ("", as_json(b"{"), 400),
    ("", as_json(b"{}", **{"Content-Encoding": "gzip"}), 415),
    ("", {"data": {"model": "fake-track"}}, 415),
    ("", {"data": b"{}", "headers": {"Content-Type": "application/octet-stream"}}, 415),
    ("/upload", {"data": {"model": "fake-track"}}, 404),
]


async def test_another_model_of_the_same_server(tmp_path):
    """However it is named, only what the application offers is asked; nor by who has no key."""
    async with (
        peer(tmp_path, "one") as one,
        front(tmp_path, {"port": port_of(one), "key": "secret-of-one"}) as shop,
    ):
        await shop.route()
        for path, request, wanted in REFUSED:
            status, answer = await shop.ask(f"/v1/infer{path}", **request)
            assert status == wanted, (path, request, answer)
        assert (await shop.ask("/v1/infer", "GET"))[0] == 405
        shop.key = "nobody's"
        assert (await shop.ask("/v1/infer?model=fake-detect", **PICTURE))[0] == 401
        models = await states(one, "secret-of-one")
        assert models["fake-track"] == "unloaded"


async def test_a_stream_of_another_mataserver(tmp_path):
    """Its session is made there, and frames and results pass through the gateway."""
    async with (
        peer(tmp_path, "one") as one,
        front(tmp_path, {"port": port_of(one), "key": "secret-of-one"}) as shop,
        aiohttp.ClientSession() as http,
    ):
        await shop.route("fake-track", protocols=["http", "ws"])
        status, made = await shop.ask("/v1/sessions", json={"model": "fake-track"})
        assert status == 201, made
        async with http.ws_connect(made["ws_url"], headers={"apikey": shop.key}) as socket:
            await socket.send_bytes(PNG)
            answer = await socket.receive_json(timeout=20)
            assert answer["detections"][0]["track_id"] == 1
        path = f"/v1/sessions/{made['session_id']}"
        assert (await shop.ask(path, "GET"))[1]["frames"] == 1
        assert (await shop.ask(path, "DELETE"))[0] == 204


async def test_the_protocol_by_grpc(tmp_path):
    """The mataserver's own port of gRPC is shown its key, not the consumer's."""
    async with peer(tmp_path, "one") as one:
        where = {"port": port_of(one), "grpc_port": grpc_port(one), "key": "secret-of-one"}
        async with front(tmp_path, where, grpc_port=0) as shop:
            await shop.route(protocols=["grpc"])
            server = shop.client.server
            place = Place(server.url, shop.key, server.service("fleet").grpc_port)
            async with triton("grpc-aio", place) as client:
                found = await client.infer("fake-detect", client.encoded(PNG))
                assert found.as_numpy("count").tolist() == [1]


class Door:
    """A port that leads to a server, and to another one later: servers here choose their own."""

    def __init__(self):
        self.to = None

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc):
        self._server.close()

    async def _carry(self, reader, writer):
        if self.to is None:
            writer.transport.abort()
            return
        far = await asyncio.open_connection("127.0.0.1", self.to)
        await asyncio.gather(_pump(reader, far[1]), _pump(far[0], writer))


async def _pump(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_two_that_have_the_model(tmp_path):
    """One that ends costs no request, and is asked again when it is back."""
    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(peer(tmp_path, "one"))
        door = await stack.enter_async_context(Door())
        peers = [
            {"port": port_of(one), "key": "secret-of-one"},
            {"port": door.port, "key": "secret-of-two"},
        ]
        shop = await stack.enter_async_context(front(tmp_path, *peers))
        found, stop = [], asyncio.Event()

        async def load():
            while not stop.is_set():
                found.append(await shop.infer())

        for turn in range(2):
            async with peer(tmp_path, "two") as two:
                door.to = port_of(two)
                if turn == 0:
                    await shop.route()
                    loading = [asyncio.create_task(load()) for _ in range(4)]
                await until(lambda two=two: has_inferred(two, "secret-of-two"))
                door.to = None
        stop.set()
        await asyncio.gather(*loading)
        assert set(found) == {200}


async def has_inferred(server, key):
    """Whether a server has the model in memory: it was asked."""
    return (await states(server, key))["fake-detect"] != "unloaded"


async def states(server, key):
    """Return the states of a server's models."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.get(f"{server.url}/v1/models") as answer,
    ):
        return {each["model"]: each["state"] for each in await answer.json()}


async def test_a_mataserver_that_cannot_serve(tmp_path):
    """One that does not accept the gateway's key is not asked, and no consumer hears of keys."""
    async with peer(tmp_path, "one") as one:
        port = port_of(one)
        async with front(tmp_path, {"port": port, "key": "secret-of-one"}) as shop:
            await shop.route()
            assert await shop.infer() == 200
        async with front(tmp_path, {"port": port, "key": "another"}) as shop:
            shop.key = (await shop.client.made("/api/apps/shop/consumers/later"))["key"]
            status, answer = await shop.ask(
                "/v2/models/fake-detect/infer", json={"inputs": [TENSOR]}
            )
            assert status in {502, 503}, answer
            assert "Invalid API key" not in str(answer)
