"""Propagation over the WebSocket: frame by frame, at the client's pace, and no longer than it."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from mataserver_sam.callers import Caller
from mataserver_sam.video_requests import PropagateRequest, Step
from mataserver_sam.video_socket import VideoSocket

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNT = 8
TEXT = {"type": "text", "text": "red car"}
BOX = {"type": "box", "box": [0.5, 0.5, 0.4, 0.4]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(video_api, video_server):
    """Calls a server."""
    async with video_server() as served, video_api.Client(served) as called:
        yield called


async def received(socket):
    """Return every message until the server closes, decoded."""
    return [json.loads(message.data) async for message in socket]


async def test_frames_then_the_end(api, video_path):
    """One message a frame, in the order of the walk, then the number of frames; then it closes."""
    async with api.session(video_path, TEXT, BOX) as one, one.stream() as socket:
        request = {"direction": "forward", "start_frame_index": 2, "max_frames": None}
        await socket.send_json(request)
        *frames, last = await received(socket)
        assert socket.close_code == 1000
        for name in ("X-Request-Id", "Server-Timing"):
            assert name in socket._response.headers
        assert last == {"type": "complete", "total_frames": 6}
        assert [each["frame_index"] for each in frames] == [2, 3, 4, 5, 6, 7]
        for each in frames:
            assert set(each) == {"type", "frame_index", "objects"}
            assert each["type"] == "frame"
            for found in each["objects"]:
                assert set(found) == {"id", "mask", "box", "score"}
        assert any(each["objects"] for each in frames)


async def test_the_stream_equals_the_answer(api, video_path):
    """Frame by frame or all at once: the same objects; an empty request walks both ways."""
    streamed = {}
    async with api.session(video_path, TEXT) as one, one.stream() as socket:
        await socket.send_str("{}")
        *frames, last = await received(socket)
        streamed = {str(each["frame_index"]): each["objects"] for each in frames}
        assert last["total_frames"] == COUNT
    async with api.session(video_path, TEXT) as one:
        answer = await one.ok("POST", "/propagate", {})
    assert streamed == {name: each["objects"] for name, each in answer["results"].items()}


async def test_damaged_frames_are_told(api, movies, video_folder):
    """Their objects are those of the whole frame that replaces them, in both answers."""
    path = movies.write(video_folder / "roots" / "damaged.mp4", COUNT, "mpeg4", size=(320, 256))
    path.write_bytes(movies.with_damage(path.read_bytes(), 3))
    async with api.session(path, TEXT) as one, one.stream() as socket:
        await socket.send_json({"direction": "forward"})
        *frames, _ = await received(socket)
    assert [each.get("damaged") for each in frames] == [None] * 3 + [True] * 3 + [None] * 2
    async with api.session(path, TEXT) as one:
        answer = await one.ok("POST", "/propagate", {"direction": "forward"})
    found = answer["results"].values()
    assert [each["frame_index"] for each in found if each.get("damaged")] == [3, 4, 5]


async def test_sessions_take_turns(api, video_path):
    """Two streams advance together, not one after the other."""
    told = asyncio.Queue()

    async def follow(one):
        async with one.stream() as socket:
            await socket.send_json({})
            async for message in socket:
                told.put_nowait((one.id, json.loads(message.data)["type"]))

    async with api.session(video_path, BOX) as one, api.session(video_path, BOX) as other:
        await asyncio.gather(follow(one), follow(other))
        order = [told.get_nowait() for _ in range(2 * (COUNT + 1))]
        ends = [order.index((each.id, "complete")) for each in (one, other)]
        begins = [order.index((each.id, "frame")) for each in (one, other)]
    assert max(begins) < min(ends)


REFUSED = {
    "misspelt": ('{"max_frame": 2}', "max_frame: unknown field; did you mean max_frames?"),
    "no JSON": ("{", "The message is not valid JSON"),
    "a wrong direction": (
        '{"direction": "up"}',
        "direction: invalid enum value 'up': one of backward, both, forward",
    ),
    "a null and a wrong number": ('{"direction": null, "max_frames": 0}', "max_frames: expected"),
    "no frames": ('{"max_frames": 0}', "max_frames"),
    "a start beyond the end": ('{"start_frame_index": 8}', "the video has 8 frames"),
    "no object": ("[]", "object"),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
async def test_wrong_requests(api, video_path, text, said):
    """What cannot be served is told as an error message, and the session stays ready."""
    async with api.session(video_path, BOX) as one:
        async with one.stream() as socket:
            await socket.send_str(text)
            (message,) = await received(socket)
        assert message["type"] == "error"
        assert said in message["error"]
        assert set(message) == {"type", "error"}
        assert (await one.status())["status"] == "ready"


async def test_a_request_that_is_no_socket(api):
    """A plain GET is told what is there."""
    status, answer = await api.ask("GET", "/api/v1/video/ws/propagate/nobody")
    assert (status, answer["detail"][:20]) == (400, "This is a WebSocket:")


async def test_sessions_that_cannot_be_streamed(api, video_path, long_video_path):
    """An unknown session, told at once, one without prompts and a busy one are told as errors."""
    async with api.http.ws_connect("/api/v1/video/ws/propagate/nobody") as socket:
        assert await received(socket) == [{"type": "error", "error": "Session not found: nobody"}]
    async with api.session(video_path) as one, one.stream() as socket:
        await socket.send_json({})
        (message,) = await received(socket)
        assert "no prompts" in message["error"]
    async with api.session(long_video_path, TEXT) as one, one.stream() as first:
        await first.send_json({"max_frames": 24})
        await first.receive()
        async with one.stream() as second:
            await second.send_json({})
            (message,) = await received(second)
            assert message == {"type": "error", "error": f"Session {one.id} is busy"}
        assert len(await received(first)) == 24


@pytest.mark.parametrize("how", ["closes", "breaks off"])
async def test_a_client_that_goes_stops_the_work(api, long_video_path, how):
    """Whether it says goodbye or not, the work ends between two frames and the session is free."""
    async with api.session(long_video_path, TEXT) as one:
        socket = await one.stream()
        await socket.send_json({})
        await socket.receive()
        if how == "closes":
            await socket.close()
        else:
            socket._response.connection.transport.abort()
        while (status := await one.status())["status"] != "ready":
            await asyncio.sleep(0.01)
        assert status["frames_processed"] < status["total_frames"]
        assert (await one.ok("POST", "/propagate", {"max_frames": 2}))["total_frames"] == 2


async def test_a_client_that_says_nothing_holds_nothing(api, video_path):
    """A socket on which no request comes keeps nobody from the session."""
    async with api.session(video_path, BOX) as one, one.stream():
        assert (await one.ok("POST", "/propagate", {}))["total_frames"] == COUNT


async def test_streams_need_the_key(api):
    """Without the server's key there is no socket."""
    async with aiohttp.ClientSession(api.url) as stranger:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await stranger.ws_connect("/api/v1/video/ws/propagate/any")
    assert refused.value.status == 401


async def test_the_key_in_the_query(api, video_path):
    """A browser's script can set no header of a WebSocket: ``?token=`` is the key."""
    key = api.http.headers["Authorization"].removeprefix("Bearer ")
    async with api.session(video_path, BOX) as one, aiohttp.ClientSession(api.url) as page:
        path = f"/api/v1/video/ws/propagate/{one.id}"
        async with page.ws_connect(f"{path}?token={key}") as socket:
            await socket.send_json({"direction": "forward"})
            *frames, last = await received(socket)
        assert last == {"type": "complete", "total_frames": len(frames)}
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await page.ws_connect(f"{path}?token=wrong")
    assert refused.value.status == 403


# at the client's pace


class Scripted:
    """Stands in for the sessions and for each of them: frames of a megabyte, and their count."""

    def __init__(self, frames=200):
        self.computed = 0
        self.sent = asyncio.Event()
        self.closed = False
        self._frames = frames

    def get(self, _name, _owner):
        return self

    async def propagate(self, asked):
        assert isinstance(asked, PropagateRequest)
        try:
            for frame in range(self._frames):
                self.computed += 1
                yield Step(frame, json.dumps("x" * 1_000_000).encode(), None)
                self.sent.set()
        finally:
            self.closed = True


@pytest_asyncio.fixture(loop_scope="module")
async def paced():
    """``paced(sessions)`` is a socket to a server on which those sessions are streamed."""
    clients = []

    async def connect(sessions):
        async def stream(request):
            socket = VideoSocket(sessions, lambda asked: asked, asyncio.Event())
            return await socket.serve(request, "any", Caller())

        app = web.Application()
        app.router.add_get("/stream", stream)
        client = TestClient(TestServer(app))
        await client.start_server()
        clients.append(client)
        return await client.ws_connect("/stream", max_msg_size=0)

    yield connect
    for client in clients:
        await client.close()


async def test_the_first_frame_leaves_before_the_second_is_computed(paced):
    """While the second frame is in the making, the client has the first."""
    sessions = Scripted()
    begun, may_go_on = asyncio.Event(), asyncio.Event()

    async def propagate(_asked):
        yield Step(0, b"[]", None)
        begun.set()
        await may_go_on.wait()
        yield Step(1, b"[]", None)

    sessions.propagate = propagate
    socket = await paced(sessions)
    await socket.send_json({})
    assert json.loads((await socket.receive()).data)["frame_index"] == 0
    await begun.wait()
    may_go_on.set()
    assert json.loads((await socket.receive()).data)["frame_index"] == 1
    assert json.loads((await socket.receive()).data) == {"type": "complete", "total_frames": 2}


async def test_a_slow_client_slows_the_work(paced):
    """A client that does not read has no more computed than fits into the sockets' buffers."""
    sessions = Scripted()
    socket = await paced(sessions)
    await socket.send_json({})
    await sessions.sent.wait()
    before = -1
    while sessions.computed != before:
        before = sessions.computed
        await asyncio.sleep(0.3)
    assert sessions.computed < 30
    first = msgspec.json.decode((await socket.receive()).data)
    assert first["frame_index"] == 0
    while sessions.computed == before:
        await socket.receive()
    assert sessions.computed > before


async def test_a_slow_client_that_goes_ends_the_work(paced):
    """A client that goes while it is waited for closes the propagation."""
    sessions = Scripted()
    socket = await paced(sessions)
    await socket.send_json({})
    await sessions.sent.wait()
    socket._response.connection.transport.abort()
    while not sessions.closed:
        await asyncio.sleep(0.01)
    assert sessions.computed < 200
