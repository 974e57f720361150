"""Video through the gateway: sessions of this server's own models, for consumers."""

from __future__ import annotations

import asyncio
import io

import aiohttp
import pytest
from PIL import Image

FIELDS = {"session_id", "ws_url"}


def picture(width):
    """Return a picture as PNG."""
    out = io.BytesIO()
    Image.new("RGB", (width, 10)).save(out, "PNG")
    return out.getvalue()


class Shop:
    """An application with a model that follows objects, and two consumers of it."""

    def __init__(self, client, http, keys):
        self.client, self.http, self.keys = client, http, keys

    async def ask(self, method, path, key=None, **more):
        """Ask as a consumer."""
        fields = {"apikey": key or self.keys[0]}
        return await self.client.ask(method, f"/gateway/shop{path}", "", headers=fields, **more)

    async def session(self):
        """Make a session; return its id and where its WebSocket is."""
        body = {"model": "fake-track"}
        async with asyncio.timeout(10.0):  # it begins once the server listens
            while (made := await self.ask("POST", "/v1/sessions", json=body))[0] == 503:
                await asyncio.sleep(0.02)
        assert made[0] == 201, made
        assert set(made[1]) == FIELDS
        return made[1]["session_id"], made[1]["ws_url"]


@pytest.fixture
async def shop(serve):
    """A server whose own models consumers ask."""
    models = [{"model": "fake-track", "task": "track"}]
    async with serve(models=models) as client, aiohttp.ClientSession() as http:
        await client.made("/api/apps", {"name": "shop"})
        body = {"protocols": ["http", "ws"]}
        await client.made("/api/apps/shop/routes/fake-track", body)
        keys = [
            (await client.made(f"/api/apps/shop/consumers/{name}"))["key"]
            for name in ("one", "two")
        ]
        yield Shop(client, http, keys)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_stream(shop):
    """Frames in and results out, by the address that the gateway gives; its end is passed on."""
    identity, url = await shop.session()
    assert url.startswith(shop.client.server.url.replace("http", "ws") + "/gateway/shop/v1/stream/")
    async with shop.http.ws_connect(url, headers={"apikey": shop.keys[0]}) as socket:
        for number in (1, 2, 3):
            await socket.send_bytes(picture(10 * number))
            answer = await socket.receive_json(timeout=10)
            assert answer["detections"][0]["track_id"] == number
        await socket.ping(b"are you there")
        assert (await shop.ask("GET", f"/v1/sessions/{identity}"))[1]["frames"] == 3
        assert (await shop.ask("DELETE", f"/v1/sessions/{identity}"))[0] == 204
        message = await socket.receive(timeout=10)
        assert message.type is aiohttp.WSMsgType.CLOSE
    assert (await shop.ask("GET", f"/v1/sessions/{identity}"))[0] == 404
    async with asyncio.timeout(5.0):
        while "fake-track" not in (usage := (await shop.client.ask("GET", "/api/usage"))[1]):
            await asyncio.sleep(0.02)
    sent = sum(len(picture(10 * number)) for number in (1, 2, 3))
    assert f"one,shop,fake-track,2,0,{sent}," in usage


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_whose_a_session_is(shop):
    """Another consumer, and whoever has no key, does not find it; a browser's token is a key."""
    identity, url = await shop.session()
    for key, status in ((shop.keys[1], 404), ("nobody's", 401), (None, 401)):
        fields = {"apikey": key} if key else {}
        with pytest.raises(aiohttp.WSServerHandshakeError) as error:
            await shop.http.ws_connect(url, headers=fields)
        assert error.value.status == status
    assert (await shop.ask("DELETE", f"/v1/sessions/{identity}", shop.keys[1]))[0] == 404
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        await shop.http.ws_connect(f"{url}?token={shop.keys[1]}", headers={"apikey": shop.keys[0]})
    assert error.value.status == 400, "two keys"
    async with shop.http.ws_connect(f"{url}?token={shop.keys[0]}") as socket:
        await socket.send_bytes(picture(5))
        assert "detections" in await socket.receive_json(timeout=10)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "fake-detect"}, 404),
        ({"model": "fake-track", "source": "rtsp://127.0.0.1/"}, 422),
        ({"model": "fake-track", "params": {"confidence": 7}}, 422),
        ({}, 422),
        ([], 400),
    ],
)
async def test_sessions_that_cannot_be(shop, body, status):
    """Another model, a camera, which the server would connect to, or what the model refuses."""
    await shop.session()
    assert (await shop.ask("POST", "/v1/sessions", json=body))[0] == status


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_nothing_else_of_the_server(shop):
    """Neither the list of sessions nor anything else below /v1."""
    await shop.session()
    for method, path in (
        ("GET", "/v1/sessions"),
        ("DELETE", "/v1/sessions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/sessions/../models"),
        ("GET", "/v1/stream/none"),
        ("POST", "/v1/infer/upload"),
        ("GET", "/v1/settings"),
    ):
        assert (await shop.ask(method, path))[0] in {401, 404, 405}, path


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_session_by_another_method(shop):
    """405 to its consumer; another's session stays 404, whatever the method."""
    session, _url = await shop.session()
    path = f"/v1/sessions/{session}"
    assert (await shop.ask("HEAD", path))[0] == 200
    assert (await shop.ask("HEAD", path.replace("sessions", "stream")))[0] == 405
    assert (await shop.ask("POST", path))[0] == 405
    assert (await shop.ask("PUT", path))[0] == 405
    assert (await shop.ask("POST", path.replace("sessions", "stream")))[0] == 405
    assert (await shop.ask("PUT", "/v1/sessions/none"))[0] == 404
