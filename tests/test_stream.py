"""Streaming as two client libraries see it: results, messages, parameters, formats."""

from __future__ import annotations

import asyncio
import base64
import json
import re

import aiohttp
import msgspec
import pytest
from websockets.asyncio.client import connect

from conftest import picture
from mataserver import results
from stream_peers import (
    PNG,
    behind_gate,
    delete_session,
    eventually,
    metric,
    open_session,
    open_url,
    session_info,
)

MSGPACK = "mata.v1.msgpack"


@pytest.fixture
async def stream(http):
    """A connected socket of a new session on the fake detector."""
    async with http.ws_connect(f"/v1/stream/{await open_session(http)}") as ws:
        yield ws


async def test_a_session_says_where_to_stream(http, server):
    """A new session has an id of 12 hex digits and the URL of its socket on the same host."""
    async with http.post("/v1/sessions", json={"model": "fake-detect"}) as response:
        assert response.status == 201
        made = await response.json()
    assert re.fullmatch(r"sess_[0-9a-f]{12}", made["session_id"])
    host = server.url.removeprefix("http://")
    assert made["ws_url"] == f"ws://{host}/v1/stream/{made['session_id']}"


async def test_a_frame_is_answered_by_its_result(http):
    """A result is mata.v1 with the session's id, the frame's number, milliseconds and drops."""
    session_id = await open_session(http)
    async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
        await ws.send_bytes(PNG)
        answer = await ws.receive_json(timeout=10)
    assert answer.pop("timestamp") > 1.6e9
    assert answer.pop("inference_ms") >= 0
    assert answer == {
        "schema_version": "mata.v1",
        "task": "detect",
        "model": "fake-detect",
        "session_id": session_id,
        "frame_id": 0,
        "dropped": 0,
        "detections": [{"label": "64x48", "confidence": 0.9, "bbox": [10.0, 8.0, 30.0, 28.0]}],
    }


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
async def test_any_picture_format_is_a_frame(stream, form):
    """JPEG, PNG and WebP frames are decoded."""
    await stream.send_bytes(picture(form=form))
    answer = await stream.receive_json(timeout=10)
    assert answer["detections"][0]["label"] == "64x48"


async def test_results_decode_into_the_public_struct(stream):
    """The message is what ``results.decode`` of the client takes."""
    await stream.send_bytes(PNG)
    response = results.decode((await stream.receive_str(timeout=10)).encode())
    assert (response.frame_id, response.dropped) == (0, 0)


async def test_an_independent_client_streams(http):
    """The websockets package connects with its defaults and gets each frame's result."""
    async with connect(await open_url(http), proxy=None) as ws:
        for number in range(5):
            await ws.send(PNG)
            assert json.loads(await ws.recv())["frame_id"] == number


@pytest.mark.parametrize("task", ["classify", "depth", "ocr", "pose", "segment", "track", "vlm"])
async def test_every_task_streams(http, task):
    """A frame on each task's model fills that task's field."""
    field = {"classify": "classifications", "depth": "depth_map", "pose": "keypoints"}
    field |= {"segment": "segments", "track": "detections"}
    async with http.ws_connect(f"/v1/stream/{await open_session(http, f'fake-{task}')}") as ws:
        await ws.send_bytes(PNG)
        answer = await ws.receive_json(timeout=10)
    assert answer["task"] == task
    assert field.get(task, "text") in answer


async def test_session_parameters_hold_for_every_frame(http):
    """The parameters given at creation are used; a bad one is refused there with 422."""
    session_id = await open_session(http, confidence=0.2)
    async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
        for _ in range(2):
            await ws.send_bytes(PNG)
            assert len((await ws.receive_json(timeout=10))["detections"]) == 2
    for params in ({"confidence": 2}, {"threshold": 0.5}, {"top": 1}):
        body = {"model": "fake-detect", "params": params}
        async with http.post("/v1/sessions", json=body) as response:
            assert response.status == 422
            assert next(iter(params)) in (await response.json())["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "absent"}, 404),
        ({"model": "fake-detect", "task": "ocr"}, 422),
        ({"model": "fake-detect", "task": ""}, 422),
        ({"model": "fake-classify", "task": "track"}, 422),
        ({"model": "fake-detect", "task": "detect"}, 201),
        ({"model": "fake-detect", "task": None, "params": None}, 201),
        ({"model": "fake-detect", "params": []}, 422),
        ({}, 422),
    ],
)
async def test_what_a_session_may_ask_for(http, body, status):
    """Unknown models are 404, other tasks and malformed bodies 422."""
    async with http.post("/v1/sessions", json=body) as response:
        assert response.status == status


async def test_messagepack_carries_raw_pixels(http):
    """With the msgpack subprotocol results are binary and a depth map is plain float32 bytes."""
    path = f"/v1/stream/{await open_session(http, 'fake-depth')}"
    async with http.ws_connect(path, protocols=[MSGPACK]) as ws:
        assert ws.protocol == MSGPACK
        await ws.send_bytes(PNG)
        packed = msgspec.msgpack.decode(await ws.receive_bytes(timeout=10))
        await ws.send_str('{"type": "ping"}')
        assert msgspec.msgpack.decode(await ws.receive_bytes(timeout=10)) == {"type": "pong"}
        await ws.send_bytes(b"no picture")
        error = msgspec.msgpack.decode(await ws.receive_bytes(timeout=10))
    assert packed["depth_shape"] == [48, 64]
    assert len(packed["depth_map"]) == 48 * 64 * 4
    assert (error["type"], error["frame_id"]) == ("error", 1)
    async with http.ws_connect(path) as ws:
        await ws.send_bytes(PNG)
        plain = await ws.receive_json(timeout=10)
    assert base64.b64decode(plain["depth_map"]) == packed["depth_map"]


async def test_a_mask_is_raw_png_in_messagepack(http):
    """A segment's mask is PNG bytes, not base64, in the msgpack subprotocol."""
    path = f"/v1/stream/{await open_session(http, 'fake-segment')}"
    async with http.ws_connect(path, protocols=[MSGPACK]) as ws:
        await ws.send_bytes(PNG)
        answer = msgspec.msgpack.decode(await ws.receive_bytes(timeout=10))
    assert answer["segments"][0]["mask"].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [([], None), (["mata.v1.json", MSGPACK], "mata.v1.json"), (["x", MSGPACK], MSGPACK)],
)
async def test_the_first_known_subprotocol_is_chosen(http, offered, chosen):
    """Of the subprotocols that a client offers the first that is known is taken."""
    url = await open_url(http)
    async with connect(url, subprotocols=offered or None, proxy=None) as ws:
        assert ws.subprotocol == chosen
        await ws.send(PNG)
        assert isinstance(await ws.recv(), bytes if chosen == MSGPACK else str)


async def test_an_unknown_subprotocol_means_json(http):
    """A client that offers only unknown subprotocols is connected without one, in JSON."""
    path = f"/v1/stream/{await open_session(http)}"
    async with http.ws_connect(path, protocols=["mata.v9"]) as ws:
        assert ws.protocol is None
        await ws.send_bytes(PNG)
        assert (await ws.receive_json(timeout=10))["frame_id"] == 0


async def test_the_upgrade_has_what_every_answer_has(http):
    """The answer to the upgrade names the client's request id, and how long it took."""
    path = f"/v1/stream/{await open_session(http)}"
    async with http.ws_connect(path, headers={"X-Request-Id": "mine"}) as ws:
        assert ws._response.headers["X-Request-Id"] == "mine"
        assert re.fullmatch(r"total;dur=\d+\.\d{3}", ws._response.headers["Server-Timing"])


async def test_compression_is_declined(http):
    """A client that offers permessage-deflate does not get it: pictures do not compress."""
    path = f"/v1/stream/{await open_session(http)}"
    async with http.ws_connect(path, compress=15) as ws:
        assert not ws.compress


@pytest.mark.parametrize("bad", [b"", b"no picture", PNG[:60], b"\xff\xd8\xff\xe0 half a JPEG"])
async def test_a_bad_frame_is_an_error_message(stream, bad):
    """A frame that is no picture is answered by an error with its number; the next one counts."""
    await stream.send_bytes(bad)
    error = await stream.receive_json(timeout=10)
    assert list(error) == ["type", "frame_id", "detail"]  # in the order that is documented
    assert (error["type"], error["frame_id"]) == ("error", 0)
    await stream.send_bytes(PNG)
    assert (await stream.receive_json(timeout=10))["frame_id"] == 1


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "{", "[]", "7", '{"type": 3}', '{"type": "stop"}', "[" * 5_000, '"\\ud800"'),
        '{"more": [%s{}], "type": "ping"}' % ("{}," * 50_000),
    ],
)
async def test_other_text_is_an_error_message(stream, text):
    """Text that is no ping is answered by an error without a frame's number; it stays open."""
    await stream.send_str(text)
    error = await stream.receive_json(timeout=10)
    assert error["type"] == "error"
    assert "frame_id" not in error
    await stream.send_str('{"type": "ping", "more": 1}')
    assert await stream.receive_json(timeout=10) == {"type": "pong"}


async def test_protocol_pings_are_answered(http):
    """A WebSocket ping gets its pong."""
    async with connect(await open_url(http), proxy=None) as ws:
        answered = await ws.ping(b"are you there")
        assert await asyncio.wait_for(answered, 10) >= 0


@pytest.fixture
async def gated(data_dir):
    """An HTTP session with a server that has the gated model besides the fakes, and the gate."""
    async with behind_gate(data_dir) as both:
        yield both


async def test_frames_of_one_burst_find_an_idle_model_idle(http):
    """Of two frames sent at once to an idle model none is dropped."""
    path = f"/v1/stream/{await open_session(http)}"
    async with http.ws_connect(path) as ws:
        for number in range(0, 10, 2):
            await asyncio.gather(ws.send_bytes(PNG), ws.send_bytes(PNG))
            for each in (number, number + 1):
                assert (await ws.receive_json(timeout=10))["frame_id"] == each


async def test_the_latest_frame_wins(gated):
    """While a frame is inferred only the newest one waits: the others are dropped and counted."""
    http, gate = gated
    session_id = await open_session(http, "gated")
    async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
        await ws.send_bytes(picture(width=40))
        await gate.inside()
        for width in (41, 42, 43, 44):
            await ws.send_bytes(picture(width=width))

        async def received():
            return (await session_info(http, session_id))["frames"] == 5

        await eventually(received)
        gate.open(2)
        first, second = await ws.receive_json(timeout=10), await ws.receive_json(timeout=10)
    assert (first["frame_id"], first["detections"][0]["label"]) == (0, "40x48")
    assert (second["frame_id"], second["detections"][0]["label"]) == (4, "44x48")
    assert second["dropped"] == 3
    info = await session_info(http, session_id)
    assert (info["frames"], info["results"], info["dropped"]) == (5, 2, 3)
    assert await metric(http, "mataserver_frames_received_total") == 5
    assert await metric(http, "mataserver_frames_dropped_total") == 3


async def test_two_sessions_on_one_model_take_turns(gated):
    """Two sessions that both have a frame waiting are inferred in turn."""
    http, gate = gated
    paths = [f"/v1/stream/{await open_session(http, 'gated')}" for _ in range(2)]
    async with http.ws_connect(paths[0]) as one, http.ws_connect(paths[1]) as other:

        async def keep_busy(ws, width):
            await ws.send_bytes(picture(width=width))
            while True:
                await ws.send_bytes(picture(width=width))
                await ws.receive_json(timeout=10)

        tasks = [asyncio.create_task(keep_busy(*each)) for each in ((one, 40), (other, 50))]
        for count in range(1, 13):
            await gate.inside(count)
            gate.open()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert sorted(gate.sizes[2:12]) == [40] * 5 + [50] * 5


async def test_deleting_a_session_in_the_middle_of_a_frame(gated):
    """DELETE answers at once and closes the socket with 1000, whatever the model is doing."""
    http, gate = gated
    session_id = await open_session(http, "gated")
    async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
        await ws.send_bytes(PNG)
        await gate.inside()
        assert await delete_session(http, session_id) == 204
        message = await ws.receive(timeout=10)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1000)
    assert await delete_session(http, session_id) == 404
