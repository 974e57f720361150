"""What a caller gives to the client: images, parameters and frames, of which some are none."""

from __future__ import annotations

import asyncio
import io
import json

import numpy as np
import pytest
from api_stand_in import BOXES, StandIn, picture
from client_cases import collect, connected, every, widths
from PIL import Image

from mataserver_client import AsyncClient, BadRequest, transport
from mataserver_client.images import fields
from mataserver_client.transport import MOST_REQUESTS


@pytest.fixture(params=[False, True], ids=["json", "msgpack"])
async def client(request):
    async with connected(StandIn(), msgpack=request.param) as client:
        yield client


async def test_an_image_is_bytes_a_path_or_a_file(client, tmp_path):
    """The image may come from memory, from a path, or from an open file."""
    path = tmp_path / "picture.png"
    path.write_bytes(picture(5))
    with path.open("rb") as file:
        for image in (bytearray(picture(5)), path, str(path), file, io.BytesIO(picture(5))):
            response = await client.infer(BOXES, image)
            assert response.detections[0].bbox[2] == 5.0
    with pytest.raises(TypeError, match="binary"):
        await client.infer(BOXES, io.StringIO("text"))
    for image in (3, np.zeros((4, 5, 3), np.uint8), Image.new("RGB", (5, 4))):
        with pytest.raises(TypeError, match="encoded bytes, a path or a binary file, not "):
            await client.infer(BOXES, image)
    written = io.BytesIO()
    written.write(picture(5))
    with pytest.raises(BadRequest, match="seek"):
        await client.infer(BOXES, written)


async def test_any_number_of_images_may_be_given_at_once(server, png):
    """One client fills no model's queue, however slow the model is: each image is answered."""
    async with AsyncClient(server.url, server.key) as client:
        await client.warmup("fake-detect")
        images = [client.infer("fake-detect", png, seconds=0.01) for _ in range(200)]
        assert len(await asyncio.gather(*images)) == 200


class Holding(StandIn):
    """Answers no inference before it is allowed to."""

    def __init__(self):
        super().__init__()
        self.allowed = asyncio.Event()
        self.first_many = asyncio.Event()

    async def _infer(self, request):
        await self._turn()
        return await super()._infer(request)

    async def _upload(self, request):
        await self._turn()
        return await super()._upload(request)

    async def _turn(self):
        if len(self.requests) == MOST_REQUESTS:
            self.first_many.set()
        await self.allowed.wait()


async def test_a_small_requests_wait_for_its_turn_counts_in_timeout(monkeypatch):
    """Who waits for others longer than ``timeout`` is not sent after it, for as long again."""
    monkeypatch.setattr(transport, "MOST_REQUESTS", 1)
    came, end = [], asyncio.Event()

    async def silent(reader, writer):
        came.append(await reader.readline())
        await end.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = "http://127.0.0.1:{1}".format(*server.sockets[0].getsockname())
    async with server, AsyncClient(url, timeout=0.5) as client:
        calls = [client.health() for _ in range(8)]
        told = await asyncio.gather(*calls, return_exceptions=True)
        end.set()
    assert {str(each) for each in told} == {f"{url[7:]} did not answer in time"}
    assert len(came) < 4


@pytest.mark.parametrize("way", ["infer", "upload", "infer_raw"])
async def test_images_are_read_when_it_is_their_turn(way):
    """A folder of pictures that is given at once is not in memory at once."""
    read = []

    class Picture(io.BytesIO):
        def read(self):
            read.append(self)
            return super().read()

    stand_in = Holding()
    async with connected(stand_in) as client, asyncio.TaskGroup() as tasks:
        for _ in range(2 * MOST_REQUESTS):
            tasks.create_task(getattr(client, way)(BOXES, Picture(picture(5))))
        await stand_in.first_many.wait()
        assert len(read) == MOST_REQUESTS
        stand_in.allowed.set()
    assert len(read) == 2 * MOST_REQUESTS


async def test_images_that_wait_hold_nothing_else_back():
    """The server's state and sessions are asked for beside as many images as are sent at once."""
    stand_in = Holding()
    async with connected(stand_in, timeout=5.0) as client:
        images = [
            asyncio.create_task(client.infer_raw(BOXES, picture(5))) for _ in range(MOST_REQUESTS)
        ]
        await stand_in.first_many.wait()
        try:
            assert (await client.health()).status == "ok"
            assert await client.sessions() == []
        finally:
            stand_in.allowed.set()
            await asyncio.gather(*images)


class Slow(StandIn):
    """Answers nobody who asks for sessions before it is allowed to."""

    def __init__(self):
        super().__init__()
        self.allowed = asyncio.Event()
        self.first_many = asyncio.Event()
        self.asking = 0

    async def _sessions(self, request):
        self.asking += 1
        if self.asking == MOST_REQUESTS:
            self.first_many.set()
        await self.allowed.wait()
        self.asking -= 1
        return await super()._sessions(request)


async def test_other_requests_hold_no_image_back():
    """However many other requests there are: images and loads go beside those that are sent."""
    stand_in = Slow()
    async with connected(stand_in, timeout=5.0) as client, asyncio.TaskGroup() as tasks:
        others = [tasks.create_task(client.sessions()) for _ in range(3 * MOST_REQUESTS)]
        await stand_in.first_many.wait()
        try:
            assert (await client.infer_raw(BOXES, picture(5))).detections
            assert (await client.warmup(BOXES)).status == "ready"
            assert stand_in.asking == MOST_REQUESTS
        finally:
            stand_in.allowed.set()
    assert [each.result() for each in others] == [[]] * len(others)


@pytest.mark.parametrize("way", ["infer", "upload", "infer_raw"])
async def test_parameters_may_be_numpys(client, way):
    """Numbers and arrays of numpy arrive as plain ones; None is no parameter, in every way."""
    given = {
        "confidence": np.float32(0.5),
        "top_k": np.int64(3),
        "box_prompts": np.array([[1, 2, 3, 4]]),
    }
    output = (await getattr(client, way)(BOXES, picture(7), **given, prompt=None)).output
    plain = {"confidence": 0.5, "top_k": 3, "box_prompts": [[1, 2, 3, 4]]}
    if way == "infer":
        assert output == plain | {"prompt": None}
    else:
        assert {name: json.loads(text) for name, text in output.items()} == plain
    with pytest.raises(TypeError, match="JSON holds no function"):
        await getattr(client, way)(BOXES, picture(7), confidence=lambda: 0.5)


def test_forms_spell_values_as_json():
    """Numbers, booleans and lists are spelt as in JSON; texts stand as they are."""
    assert fields({"detail": 1, "flag": True, "prompts": "a . b", "language": "de"}) == {
        "detail": "1",
        "flag": "true",
        "prompts": "a . b",
        "language": "de",
    }
    assert fields({"prompts": ["st. bernard", "cat"]}) == {"prompts": '["st. bernard","cat"]'}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("frame", [None, "a.png", 7])
async def test_a_frame_that_is_no_bytes_fails_the_stream(frame, asynchronous):
    """Neither does None end the frames, nor is a name opened: the caller is told."""

    async def later():
        for each in frames:
            yield each

    frames, seen = [picture(1), frame, picture(3)], []
    async with connected(StandIn()) as client:
        stream = client.stream(BOXES, later() if asynchronous else frames)
        with pytest.raises(TypeError, match="a frame is the bytes of an encoded image, not "):
            await collect(stream, into=seen)
    assert widths(seen) == every(1)
