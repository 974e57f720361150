"""What a viewer of a camera is sent while it reads slowly."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from aiohttp import WSMsgType

from mataserver.http.stream_channel import PING_WINDOW
from mataserver.http.stream_viewer import Viewer
from mataserver.metrics import Metrics
from mataserver.params.table import Params
from mataserver.serving.feeds.inferred_frame import InferredFrame
from mataserver.serving.frames import FrameSession
from mataserver.serving.handle import Handle

LOST = "The camera gives no frames: the connection broke"


class Socket:
    """Keeps what is sent."""

    ws_protocol = None

    def __init__(self):
        self.sent = []

    async def send_frame(self, data, kind):
        if kind is not WSMsgType.PING:
            self.sent.append(json.loads(data))


@pytest.fixture
async def viewer():
    """A viewer whose client has not read its last messages."""
    plan = SimpleNamespace(spec=SimpleNamespace(name="m", task="detect"))
    session = FrameSession(Handle(None, Metrics(), 64, lambda: plan), Params(), "sess_1")
    made = Viewer(SimpleNamespace(), session, Socket())
    for _ in range(PING_WINDOW):
        made._new_ping()
    working = asyncio.create_task(made._work())
    yield made
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


def frame(number):
    """Return a frame with an empty result."""
    return InferredFrame(number, 0, b"jpeg", 0.0, b"\x81\xaadetections\x90")


async def read(viewer, count):
    """Have the client read; return what it was sent, ``count`` messages."""
    viewer._on_pong(next(reversed(viewer._pings)))
    async with asyncio.timeout(10):
        while len(viewer._socket.sent) < count:
            await asyncio.sleep(0.005)
    return [each.get("frame_id", each.get("detail")) for each in viewer._socket.sent]


async def test_a_loss_is_told_behind_the_result_that_waits(viewer):
    """A client that reads slowly is told too, once, after the newest result."""
    viewer.show(frame(0))
    viewer.show(frame(1))
    viewer.warn(LOST)
    assert await read(viewer, 2) == [1, LOST]
    assert viewer._socket.sent[0]["dropped"] == 1
    assert await read(viewer, 2) == [1, LOST]


async def test_a_loss_that_is_over_is_not_told(viewer):
    """Once frames come again the result replaces the notice, which was not missed as a result."""
    viewer.warn(LOST)
    viewer.show(frame(7))
    assert await read(viewer, 1) == [7]
    assert viewer._socket.sent[0]["dropped"] == 0
