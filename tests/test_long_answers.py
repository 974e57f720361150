"""Answers with long fields: they are the same to a client, and nobody copies their pixels."""

from __future__ import annotations

import base64

import aiohttp
import msgspec
import numpy as np
import pytest

from conftest import picture
from mataserver import (
    DepthResult,
    Detection,
    DetectResult,
    EmbedResult,
    OcrResult,
    Segment,
    SegmentResult,
    Usage,
    VlmResult,
    results,
    testing,
)
from mataserver.contract.envelope import Envelope, extended
from mataserver.engines.decoding import decode_result
from mataserver.engines.encoding import encode_body
from mataserver.engines.work import Outcome, Timing
from mataserver.engines.worker_errors import WorkerDied
from mataserver.serving.frames import FrameFields

FORMS = ("json", "msgpack")
DEPTH = DepthResult(np.arange(480 * 640, dtype=np.float32).reshape(480, 640))


def decoded(data, form):
    """Return an answer's fields, all but the time."""
    fields = (msgspec.json if form == "json" else msgspec.msgpack).decode(data)
    assert fields.pop("timestamp") > 0
    return fields


def body(result, task, form):
    """Return an answer as a worker encodes it, in one piece."""
    return Outcome(encode_body(result, form, Envelope(task, "m")), Timing()).whole()


FRAME = FrameFields("s", 1, 1.5, 2, reset=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [0, 1, 31, 32, 65_536, 300_000])
def test_a_body_is_the_same_however_long(form, size):
    """A body holds the head, the result and behind them what a stream adds."""
    text = "é" * (size // 2)
    found = body(OcrResult(text, []), "ocr", form)
    head = {"schema_version": "mata.v1", "task": "ocr", "model": "m"}
    whole = {**head, "text": text, "regions": []}
    assert decoded(found, form) == whole
    more = decoded(extended(found, form, FRAME), form)
    assert more == {**whole, **msgspec.to_builtins(FRAME)}


@pytest.mark.parametrize("form", FORMS)
def test_the_most_fields_that_there_can_be(form):
    """A session's answer of the task with the most fields, with all of them and with one."""
    for result in (VlmResult("a"), VlmResult("a", [], [], [], {"b": None}, Usage(1, 2))):
        found = decoded(extended(body(result, "vlm", form), form, FRAME), form)
        expected = {**msgspec.to_builtins(result), **msgspec.to_builtins(FRAME)}
        assert {name: found[name] for name in expected} == expected
        assert len(found) == len(expected) + 3


@pytest.mark.parametrize("task", ["detect", "vlm", "depth", "embed", "segment"])
def test_a_result_comes_back_as_it_was(task):
    """What a service is given is the struct that the model made, arrays and all."""
    result = {
        "detect": DetectResult([Detection("a", 0.5, (0.0, 1.0, 2.0, 3.0), extra={"b": [1]})]),
        "vlm": VlmResult("a", usage=Usage(1, 2)),
        "depth": DEPTH,
        "embed": EmbedResult(np.array([0.6, 0.8], "f4")),
        "segment": SegmentResult([Segment("a", 0.5, (0.0, 0.0, 2.0, 1.0), np.eye(2, dtype=bool))]),
    }[task]
    found = decode_result(extended(body(result, task, "msgpack"), "msgpack", FRAME), task)
    assert type(found) is type(result)
    assert repr(found) == repr(result)


@pytest.mark.parametrize("sent", [b"", b"\x90", b"\x80", b"\x81\xaadetections\x01"])
def test_a_malformed_body_is_the_workers(sent):
    """What no worker of ours has made is told as such, and not as the server's own failure."""
    with pytest.raises(WorkerDied, match="sent a malformed result"):
        decode_result(sent, "detect")


def test_a_depth_map_in_messagepack_is_never_copied():
    """What a worker writes is the memory of the model's own array."""
    pieces = encode_body(DEPTH, "msgpack", Envelope("depth", "m"))
    [pixels] = [piece for piece in pieces if len(piece) > 1000]
    assert np.shares_memory(np.frombuffer(pixels, "<f4"), DEPTH.depth_map)


def test_a_depth_map_in_json_is_copied_by_base64_alone():
    """What a worker writes is what base64 made."""
    pieces = encode_body(DEPTH, "json", Envelope("depth", "m"))
    [pixels] = [piece for piece in pieces if len(piece) > 1000]
    assert base64.b64decode(pixels) == DEPTH.depth_map.tobytes()


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
                whole = await answer.read()
                assert int(answer.headers["Content-Length"]) == len(whole)
            if status == 200:
                check(whole, form)
        made = await http.post("/v1/sessions", json={"model": "fake-depth"})
        path = f"/v1/stream/{(await made.json())['session_id']}"
        async with http.ws_connect(path, protocols=[f"mata.v1.{form}"], max_msg_size=0) as stream:
            for _ in range(3):
                await stream.send_bytes(large)
                data = (await stream.receive(timeout=20)).data
                check(data.encode() if form == "json" else data, form)


def check(data, form):
    """The map rises from left to right, in each row the same."""
    answer = results.decode(data, msgpack=form == "msgpack")
    assert answer.task == "depth"
    pixels = base64.b64decode(answer.depth_map) if form == "json" else answer.depth_map
    depth = np.frombuffer(pixels, "<f4").reshape(answer.depth_shape)
    assert depth.shape == (480, 640)
    assert np.array_equal(depth, np.tile(np.linspace(0, 1, 640, dtype="<f4"), (480, 1)))
