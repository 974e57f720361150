"""Answers with long fields: they are the same to a client, and nobody copies their pixels."""

from __future__ import annotations

import base64

import aiohttp
import msgspec
import numpy as np
import pytest

from conftest import picture
from mataserver import DepthResult, results, testing
from mataserver.engines.encoding import encode_fields
from mataserver.engines.work import Outcome, Timing
from mataserver.http import codec

FORMS = ("json", "msgpack")
DEPTH = DepthResult(np.arange(480 * 640, dtype=np.float32).reshape(480, 640))


def decoded(data, form):
    """Return an answer's fields, all but the time."""
    fields = (msgspec.json if form == "json" else msgspec.msgpack).decode(data)
    assert fields.pop("timestamp") > 0
    return fields


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [0, 1, codec.LONG - 8, codec.LONG, 100_000])
def test_a_field_is_the_same_however_long(form, size):
    """Below and above the length from which on fields stand apart, an answer reads the same."""
    text = "é" * (size // 2)
    encoder = msgspec.json if form == "json" else msgspec.msgpack
    fields = {"text": encoder.encode(text), "regions": encoder.encode([])}
    answer = codec.envelope(Outcome(fields, Timing()), "ocr", "m", frame_id=3)
    assert decoded(codec.encode(answer, form), form) == {
        "schema_version": "mata.v1",
        "task": "ocr",
        "model": "m",
        "text": text,
        "regions": [],
        "frame_id": 3,
    }


@pytest.mark.parametrize("form", FORMS)
def test_the_most_fields_that_there_can_be(form):
    """A session's answer of the task with the most fields, all of them long or none."""
    names = max((kind.__struct_fields__ for kind in results.RESULT_TYPES), key=len)
    extra = {"session_id": "s", "frame_id": 1, "inference_ms": 1.5, "dropped": 2, "reset": True}
    for length in (1, 20_000):
        encoder = msgspec.json if form == "json" else msgspec.msgpack
        fields = {name: encoder.encode("x" * length) for name in names}
        answer = codec.envelope(Outcome(fields, Timing()), "vlm", "m", **extra)
        found = decoded(codec.encode(answer, form), form)
        assert {name: found[name] for name in names} == dict.fromkeys(names, "x" * length)
        assert {name: found[name] for name in extra} == extra
        assert len(found) == len(names) + len(extra) + 3


def test_a_depth_map_in_messagepack_is_never_copied():
    """What is written to the socket is the memory of the model's own array."""
    outcome = Outcome(encode_fields(DEPTH, "msgpack"), Timing())
    response = codec.respond(codec.envelope(outcome, "depth", "m"), form="msgpack")
    [pixels] = [piece for piece in response.body._value if len(piece) > 1000]
    assert np.shares_memory(np.frombuffer(pixels, "<f4"), DEPTH.depth_map)


def test_a_depth_map_in_json_is_copied_by_base64_alone():
    """What is written to the socket is what base64 made."""
    fields = encode_fields(DEPTH, "json")
    response = codec.respond(codec.envelope(Outcome(fields, Timing()), "depth", "m"))
    assert any(piece is fields["depth_map"][1] for piece in response.body._value)


@pytest.mark.parametrize("engine", ["process", "thread"])
@pytest.mark.parametrize("form", FORMS)
async def test_served(data_dir, engine, form):
    """A map of 1.2 MB, at once and after an answer of it failed, over REST and WebSocket."""
    large = picture(640, 480)
    accept = {"Accept": f"application/{form}", "Content-Type": "image/png"}
    async with (
        testing.serving(data_dir, engine=engine) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        for behave, status in (("ok", 200), ("raise", 500), ("ok", 200)):
            query = {"model": "fake-depth", "behave": behave}
            async with http.post("/v1/infer", params=query, data=large, headers=accept) as answer:
                assert answer.status == status
                body = await answer.read()
                assert int(answer.headers["Content-Length"]) == len(body)
            if status == 200:
                check(body, form)
        made = await http.post("/v1/sessions", json={"model": "fake-depth"})
        path = f"/v1/stream/{(await made.json())['session_id']}"
        async with http.ws_connect(path, protocols=[f"mata.v1.{form}"], max_msg_size=0) as stream:
            for _ in range(3):
                await stream.send_bytes(large)
                data = (await stream.receive(timeout=20)).data
                check(data.encode() if form == "json" else data, form)


def check(body, form):
    """The map rises from left to right, in each row the same."""
    answer = results.decode(body, msgpack=form == "msgpack")
    assert answer.task == "depth"
    data = base64.b64decode(answer.depth_map) if form == "json" else answer.depth_map
    depth = np.frombuffer(data, "<f4").reshape(answer.depth_shape)
    assert depth.shape == (480, 640)
    assert np.array_equal(depth, np.tile(np.linspace(0, 1, 640, dtype="<f4"), (480, 1)))
