"""How a job asks for a session of a tracker, and again where a server is full."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mataserver import MataError
from mataserver_jobs.kinds import Access
from mataserver_jobs.model_client import Answer, RequestClient, Stream


class Answers:
    """A server whose model refuses the parameter ``timing`` with one sentence."""

    def __init__(self, detail):
        self.detail = detail
        self.asked = []

    def request(self, _method, _path, value):
        """Answer as ``RequestClient`` does."""
        self.asked.append(value["params"])
        if "timing" in value["params"]:
            return 422, {"detail": self.detail}
        return 201, {"session_id": "sess_1"}


def made(server, params):
    """Make a session on a stand-in; return its id."""
    stream = object.__new__(Stream)
    stream._requests = server
    return stream._make("tracker", params)


@pytest.mark.parametrize(
    "detail", ["params.timing: unknown parameter", "params.timing: expected `bool`, got `str`"]
)
def test_a_model_whose_timing_is_none_of_ours(detail):
    """It is asked without: nobody wanted the parameter but we."""
    server = Answers(detail)
    assert made(server, {"score": 0.5}) == "sess_1"
    assert server.asked == [{"score": 0.5, "timing": "frames"}, {"score": 0.5}]


@pytest.mark.parametrize("params", [{"timing": "often"}, {"score": 2}])
def test_what_is_refused_otherwise(params):
    """A value of the caller's, or another parameter, is told as the server told it, at once."""
    field = next(iter(params))
    server = Answers(f"params.{field}: wrong")
    with pytest.raises(MataError, match=f"params.{field}: wrong"):
        made(server, params)
    assert len(server.asked) == 1


@contextlib.asynccontextmanager
async def streaming(reply):
    """Serve a session; ``reply`` gives the message to a frame or None, which closes it.

    Yields the access to it and the frames that came.
    """
    frames = []

    async def stream(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            frames.append((request.path, message.data))
            told = reply()
            if told is None:
                await socket.close(code=1013)
            else:
                await socket.send_json(told)
        return socket

    async def session(request):
        made = request.method == "POST"
        return web.json_response({"session_id": "sess_1"}, status=201 if made else 200)

    app = web.Application()
    app.add_routes([web.view("/v1/sessions{_:.*}", session), web.get("/v1/stream/{id}", stream)])
    async with TestServer(app) as server:
        yield Access(str(server.make_url("")).rstrip("/"), "token"), frames


async def test_a_server_without_room_is_asked_again():
    """A frame that a full server refused is sent again, after a close in a session that goes on."""
    refusal = {"type": "error", "frame_id": 1, "detail": "Any sentence", "retry_after": 1}
    replies = iter([None, refusal, {"detections": []}])
    async with streaming(lambda: next(replies)) as (access, frames):
        assert await asyncio.to_thread(asked_once, access) == Answer({"detections": []})
    assert frames == [("/v1/stream/sess_1", b"frame")] * 3


async def test_what_no_retry_helps_is_the_frame_s_answer():
    """The job goes on with the next frame."""
    async with streaming(lambda: {"type": "error", "frame_id": 0, "detail": "Bad"}) as (access, _):
        assert await asyncio.to_thread(asked_once, access) == Answer(None, "Bad")


async def test_a_model_whose_loads_kill_its_worker(monkeypatch):
    """A frame is not sent for a quarter of an hour then: the job is told after some loads."""
    monkeypatch.setattr("mataserver_jobs.model_client.PAUSE_SECONDS", 0.01)
    detail = "The model could not be loaded: its worker died"
    refusal = {"type": "error", "frame_id": 0, "detail": detail, "retry_after": 2}
    async with streaming(lambda: refusal) as (access, frames):
        with pytest.raises(MataError, match=detail):
            await asyncio.to_thread(asked_once, access)
    assert len(frames) == 5


@pytest.mark.parametrize(
    ("status", "body", "answered"),
    [
        (200, b"<html>", (502, {})),
        (200, b"[1]", (502, {})),
        (503, b"<html>", (503, {})),
        (404, b'{"detail": "no"}', (404, {"detail": "no"})),
    ],
)
async def test_a_page_of_a_proxy_is_no_answer(status, body, answered):
    """Its status counts where it is a failure; a success that is not the API's is none."""
    app = web.Application()

    async def page(_):
        return web.Response(status=status, body=body)

    app.add_routes([web.get("/v1/models", page)])
    async with TestServer(app) as server:
        access = Access(str(server.make_url("")).rstrip("/"), "token")
        client = RequestClient(access, "m", {}, lambda: None)
        sent = await asyncio.to_thread(client.send_once, "GET", "/v1/models", None)
        client.close()
    assert sent == answered


def asked_once(access):
    """Return the answer to one frame of a new session."""
    with contextlib.closing(Stream(access, "tracker", {}, lambda: None)) as stream:
        return stream.ask(b"frame")
