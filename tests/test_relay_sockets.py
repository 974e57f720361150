"""How two connected WebSockets end: which side is closed first, and what is a failure of far."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest
from aiohttp import WSMessage, WSMsgType, web

from mataserver.http.relay_sockets import SocketRelay
from mataserver.http.sockets import ServiceSockets

CUT = WSMessage(WSMsgType.CLOSED, None, None)
DATA = WSMessage(WSMsgType.BINARY, b"frame", None)


@contextlib.asynccontextmanager
async def serving(handler):
    """Serve a handler; yield its URL."""
    application = web.Application()
    application.router.add_get("/", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("is_busy", [False, True])
@pytest.mark.parametrize("code", [1000, 4321])
async def test_near_has_the_goodbye_when_far_is_free(code, is_busy):
    """Whoever comes back at once after the close finds far free, also if far still sends."""
    happened = []

    async def far_end(request):
        socket = web.WebSocketResponse(autoping=False, autoclose=False)
        await socket.prepare(request)
        while (message := await socket.receive()).type is not WSMsgType.CLOSE:
            pass
        for _ in range(5):  # the session is being freed
            await asyncio.sleep(0.01)
            if is_busy:
                await socket.send_bytes(b"late")
        happened.append(("free", message.data, message.extra))
        await socket.close()
        return socket

    relays = []

    async def relayed(request):
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, autoping=False, autoclose=False) as far,
            ServiceSockets(1 << 20, 20.0, 30.0).accept_raw(request) as near,
        ):
            relays.append(SocketRelay())
            await relays[0].run(near, far)
            return near

    async with (
        serving(far_end) as url,
        serving(relayed) as near_url,
        aiohttp.ClientSession() as session,
    ):
        socket = await session.ws_connect(near_url)
        await socket.send_bytes(b"frame")
        await socket.close(code=code, message=b"enough")
        happened.append(socket.close_code)
    assert happened == [("free", code, "enough"), 1000]
    assert not relays[0].is_cut


class Side:
    """One side of a relay: reads what is put into it, and may be gone for what is sent."""

    def __init__(self, *, gone=False):
        self.inbox = asyncio.Queue()
        self.gone = gone
        self.close_code = None
        self.closed = []

    async def receive(self):
        """Return the next message."""
        return await self.inbox.get()

    async def send_frame(self, _data, _kind):
        """Send, unless the peer is gone."""
        if self.gone:
            raise aiohttp.ClientConnectionResetError

    async def close(self, code, message):
        """Close."""
        self.closed.append((code, message))


async def test_both_are_cut_at_once():
    """That far was cut is not forgotten because near is cut in the same step."""
    near, far = Side(), Side()
    relay = SocketRelay()
    running = asyncio.ensure_future(relay.run(near, far))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    far.inbox.put_nowait(CUT)
    near.inbox.put_nowait(CUT)
    await running
    assert relay.is_cut


@pytest.mark.parametrize(
    ("end", "is_cut", "code"),
    [(CUT, True, 1001), (WSMessage(WSMsgType.CLOSE, 4004, "over"), False, 4004)],
)
async def test_far_is_gone_before_its_end_is_read(end, is_cut, code):
    """A message that far no longer takes: it failed, unless its close frame is still to be read."""
    near, far = Side(), Side(gone=True)
    relay = SocketRelay()
    near.inbox.put_nowait(DATA)
    running = asyncio.ensure_future(relay.run(near, far))
    for _ in range(5):
        await asyncio.sleep(0)
    far.inbox.put_nowait(end)
    await running
    assert relay.is_cut is is_cut
    assert near.closed[0][0] == code
