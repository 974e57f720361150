"""Text that a model generates, sent piece by piece: Server-Sent Events and WebSocket."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import socket

import aiohttp
import pytest

from api_answers import head_of, until
from conftest import picture, register
from mataserver import Backend, Params, VlmResult, hookimpl, plugins, testing
from mataserver.errors import NotFound
from mataserver_client import AsyncClient, Client

PNG = picture()
EVENTS = {"Accept": "text/event-stream", "Content-Type": "image/png"}


class ChatterboxParams(Params, frozen=True, kw_only=True):
    """What it is asked."""

    prompt: str | None = None


class Chatterbox:
    """A model that comes to an end only if it is asked to."""

    def predict(self, images, _params):
        """Say nothing."""
        return [VlmResult("") for _ in images]

    def stream(self, _image, params):
        """Talk for ever, unless the prompt is "Enough"."""
        while params.prompt != "Enough":
            yield "bla " * 10_000
        yield VlmResult("")


def load(_spec, _context):
    """Load the model."""
    return Chatterbox()


@hookimpl
def backends():
    """Return the backend: this module is a plugin."""
    return [
        Backend(name="chatterbox", task="vlm", source="pip", params=ChatterboxParams, load=load)
    ]


CHATTERBOX = importlib.metadata.EntryPoint("chatterbox", __name__, plugins.GROUP)


def parse(text):
    """Return the events of a stream as (kind, data)."""
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(b[0].removeprefix("event: "), json.loads(b[1].removeprefix("data: "))) for b in blocks]


async def events(http, model, **params):
    """Ask for events; return status, content type and the events or the error."""
    query = {"model": model, **{k: str(v) for k, v in params.items()}}
    async with http.post("/v1/infer", params=query, data=PNG, headers=EVENTS) as response:
        text = await response.text()
        kind = response.content_type
        return response.status, parse(text) if kind == "text/event-stream" else json.loads(text)


@pytest.fixture(params=["thread", "process"])
async def both(request, data_dir):
    """A session to a server whose models run in threads, then one with processes."""
    async with (
        testing.serving(data_dir, engine=request.param, infer_timeout=2.0) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as session,
    ):
        yield session


async def test_pieces_then_the_result(both):
    """A generating model sends its text in pieces, then the whole answer."""
    status, found = await events(both, "fake-vlm")
    assert status == 200
    assert [kind for kind, _ in found] == ["token"] * 5 + ["result"]
    assert "".join(data["text"] for kind, data in found if kind == "token") == "64x48"
    assert (found[-1][1]["text"], found[-1][1]["schema_version"]) == ("64x48", "mata.v1")


async def test_other_tasks_send_their_result_alone(both):
    """A model that generates nothing answers with one result event."""
    status, found = await events(both, "fake-detect")
    assert (status, [kind for kind, _ in found]) == (200, ["result"])
    assert found[0][1]["detections"][0]["bbox"] == [10.0, 8.0, 30.0, 28.0]


async def test_errors_before_the_first_piece_are_ordinary(both):
    """An unknown model, a bad image and a failing model answer with their own status."""
    assert (await events(both, "nobody"))[0] == 404
    assert (await events(both, "fake-vlm", top_k=0))[0] == 422
    status, body = await events(both, "fake-vlm", behave="raise")
    assert (status, "RuntimeError" in body["detail"]) == (500, True)
    query = {"model": "fake-vlm"}
    async with both.post("/v1/infer", params=query, data=b"junk", headers=EVENTS) as response:
        assert response.status == 400


async def test_a_client_that_goes_away_stops_the_model(both):
    """After a client hung up in the middle of a text, the model is idle and serves the next one."""
    query = {"model": "fake-vlm", "seconds": "0.3"}
    async with both.post("/v1/infer", params=query, data=PNG, headers=EVENTS) as response:
        await response.content.readuntil(b"\n\n")
        response.close()
    for _ in range(100):
        async with both.get("/v1/models/fake-vlm") as answer:
            if (await answer.json())["state"] != "active":
                break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the model is still active")
    assert (await events(both, "fake-vlm"))[0] == 200


@pytest.mark.parametrize("engine", ["thread", "process"])
async def test_a_client_that_does_not_read_stops_the_model(tmp_path, engine):
    """Who takes no event for ``unread_timeout`` seconds is cut off, and the model is free again."""
    register(tmp_path, {"chatterbox": "vlm"})
    settings = {"entry_points": (CHATTERBOX,), "engine": engine, "unread_timeout": 1.0}
    async with (
        testing.serving(tmp_path, **settings) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        head = head_of(
            served,
            "/v1/infer?model=chatterbox",
            *(f"{name}: {value}" for name, value in EVENTS.items()),
            f"Content-Length: {len(PNG)}",
        )

        async def state():
            async with http.get("/v1/models/chatterbox") as response:
                return (await response.json())["state"]

        async def talking():
            return await state() == "active"

        async def free():
            return await state() in {"ready", "idle"}

        with await connected(served) as deaf:
            await asyncio.get_running_loop().sock_sendall(deaf, head + PNG)
            await until(talking)
            await until(free, 20)
        async with http.post(
            "/v1/infer?model=chatterbox&prompt=Enough",
            data=PNG,
            headers={"Content-Type": "image/png"},
        ) as response:
            assert response.status == 200


async def connected(served):
    """Return a connection with a small window, of which nobody reads."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)  # noqa: FBT003 - socket's own signature
    port = int(served.url.rpartition(":")[2])
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


async def test_a_session_that_asks_for_it_gets_pieces(both):
    """With ``stream`` a session's frames are answered by tokens and then the result."""
    made = {"model": "fake-vlm", "stream": True}
    async with both.post("/v1/sessions", json=made) as response:
        session = (await response.json())["session_id"]
    async with both.ws_connect(f"/v1/stream/{session}?token=test-key") as socket:
        await socket.send_bytes(PNG)
        messages = [await socket.receive_json(timeout=10) for _ in range(6)]
    assert [message.get("type") for message in messages] == ["token"] * 5 + [None]
    assert "".join(m["text"] for m in messages[:5]) == messages[5]["text"] == "64x48"
    assert {message["frame_id"] for message in messages} == {0}


async def test_without_asking_a_session_gets_results_alone(both):
    """A session that did not ask for pieces gets one message per frame."""
    async with both.post("/v1/sessions", json={"model": "fake-vlm"}) as response:
        session = (await response.json())["session_id"]
    async with both.ws_connect(f"/v1/stream/{session}?token=test-key") as socket:
        await socket.send_bytes(PNG)
        assert (await socket.receive_json(timeout=10))["text"] == "64x48"


async def test_the_clients_iterate_over_pieces(server):
    """Both clients give the pieces and then the answer; an error has its status; leaving stops."""
    async with AsyncClient(server.url, server.key) as client:
        found = [item async for item in client.generate("fake-vlm", PNG)]
        assert "".join(found[:-1]) == found[-1].text == "64x48"
        with pytest.raises(NotFound):
            await anext(client.generate("nobody", PNG))

    def plain():
        with Client(server.url, server.key) as client:
            for item in client.generate("fake-vlm", PNG, seconds=0.1):
                return item
        return None

    assert await asyncio.to_thread(plain) == "6"


async def test_the_client_takes_a_result_of_any_length(server):
    """The event of a whole depth map is longer than the buffers between."""
    image = picture(400, 300)
    async with AsyncClient(server.url, server.key) as client:
        (streamed,) = [item async for item in client.generate("fake-depth", image)]
        asked = await client.infer("fake-depth", image)
    assert len(streamed.depth_map) > 500_000
    assert streamed.depth_map == asked.depth_map
