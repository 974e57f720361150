"""Video sessions at the server's end: a propagation stops between two frames, and says so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestClient, TestServer

from mataserver_sam.callers import Caller
from mataserver_sam.video_requests import Step
from mataserver_sam.video_socket import VideoSocket

pytestmark = pytest.mark.long

KEY = "test-key"
LONG = 900
BOX = {"type": "box", "box": [0.5, 0.5, 0.4, 0.4]}
SHUT_DOWN = "The server is shutting down"


@pytest.fixture
def start(tmp_path, sam3_path, video_folder):
    """``start()`` is a ``mataserver serve`` of its own with a SAM3, and its URL."""

    @contextlib.contextmanager
    def started():
        sam = {"model": str(sam3_path), "video_roots": [str(video_folder / "roots")]}
        settings = {"api_keys": [KEY], "threads": 1, "drain_timeout": 300, "plugins": {"sam": sam}}
        (tmp_path / "mataserver.yaml").write_text(json.dumps(settings))
        command = [sys.executable, "-m", "mataserver", "serve", "--port", "0"]
        environment = {**os.environ, "MATA_SERVER_DATA_DIR": str(tmp_path / "data")}
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                words = process.stdout.readline().split()
                url = next(word for word in words if word.startswith("http"))
                headers = {"Authorization": f"Bearer {KEY}"}
                yield process, SimpleNamespace(url=url, headers=headers)
            finally:
                process.kill()

    return started


async def frames(socket):
    """Read a socket to its end; return the messages, decoded."""
    return [json.loads(message.data) async for message in socket]


def lives(process):
    """Whether a process runs on; one that only waits for its end to be read does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


async def test_sigterm_ends_a_server_that_tracks(start, movies, video_folder, video_api):
    """Frames that were computed are told, then 1001; REST is 503; the server exits with 0."""
    path = movies.write(video_folder / "roots" / "endless.mp4", LONG, "mpeg4")
    with start() as (process, served):
        async with video_api.Client(served) as api:
            streamed, asked = [await api.session(path, BOX).__aenter__() for _ in range(2)]
            waiting = asyncio.create_task(asked.ask("POST", "/propagate", {}))
            silent, socket = await asked.stream(), await streamed.stream()
            await socket.send_json({})
            assert json.loads((await socket.receive()).data)["frame_index"] == 0
            while (await asked.status())["frames_processed"] < 2:
                await asyncio.sleep(0.01)
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            *told, last = await frames(socket)
            assert (last, socket.close_code) == ({"type": "error", "error": SHUT_DOWN}, 1001)
            assert [each["frame_index"] for each in told] == list(range(1, len(told) + 1))
            assert len(told) < LONG - 1
            assert (await frames(silent), silent.close_code) == ([last], 1001)
            assert await waiting == (503, {"detail": SHUT_DOWN})
            assert await asyncio.to_thread(process.wait, 30) == 0
        assert not [each for each in family if lives(each)]


class Scripted:
    """Stands in for the sessions and each of them: a first frame of some size, and no second."""

    def __init__(self, size):
        self.closed = False
        self.sent = asyncio.Event()
        self._size = size

    def get(self, _name, _owner):
        return self

    async def propagate(self, _asked):
        try:
            yield Step(0, json.dumps("x" * self._size).encode(), None)
            self.sent.set()
            await asyncio.Event().wait()
        finally:
            self.closed = True


@contextlib.asynccontextmanager
async def scripted(sessions, stopping):
    """Connect to a server that streams those sessions, and ask for them."""

    async def stream(request):
        socket = VideoSocket(sessions, lambda asked: asked, stopping, shutdown_timeout=0.1)
        return await socket.serve(request, "any", Caller())

    app = web.Application()
    app.router.add_get("/stream", stream)
    async with TestClient(TestServer(app)) as client:
        socket = await client.ws_connect("/stream", max_msg_size=0)
        await socket.send_json({})
        yield socket


async def test_a_frame_that_does_not_come_is_given_up():
    """A frame that takes too long is not waited for: the client is told, and the work closed."""
    sessions, stopping = Scripted(1), asyncio.Event()
    async with scripted(sessions, stopping) as socket:
        assert json.loads((await socket.receive()).data)["frame_index"] == 0
        stopping.set()
        assert await frames(socket) == [{"type": "error", "error": SHUT_DOWN}]
        assert (socket.close_code, sessions.closed) == (1001, True)


async def test_a_client_that_takes_nothing_is_cut_off():
    """A client that does not read what it was sent does not hold the server up."""
    sessions, stopping = Scripted(50_000_000), asyncio.Event()
    async with scripted(sessions, stopping) as socket:
        transport = socket._response.connection.transport
        transport.pause_reading()
        stopping.set()
        while not sessions.closed:
            await asyncio.sleep(0.01)
        assert not sessions.sent.is_set()
        transport.resume_reading()
        assert (await socket.receive()).type in {WSMsgType.CLOSED, WSMsgType.ERROR, WSMsgType.CLOSE}
