"""The WebSocket protocol byte by byte: fragments, control frames, and everything malformed."""

from __future__ import annotations

import json

import pytest

from conftest import picture
from stream_peers import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PNG,
    PONG,
    TEXT,
    RawPeer,
    frame,
    no_connection,
    open_session,
    open_url,
    server_apart,
)


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """A server in another process; the fake models run in threads."""
    folder = tmp_path_factory.mktemp("protocol")
    settings = {"engine": "thread", "max_sessions": 100, "max_body_mb": 0.1}
    # No test's connection is refused for another one: a busy machine may take its time.
    with server_apart(folder, departure=4.0, **settings) as server:
        yield server


@pytest.fixture
async def http(apart):
    """An HTTP session that carries the key."""
    async with apart.http() as session:
        yield session


@pytest.fixture
async def peer(http):
    """A client of bytes on a new session; after it the server must have let it go."""
    async with RawPeer.connected(await open_url(http)) as made:
        yield made
    await no_connection(http)


async def answer(peer):
    """Return the next message of the server, its pings aside."""
    while (received := await peer.receive()) is not None and received[0] == PING:
        pass
    opcode, payload = received
    assert opcode == TEXT
    return json.loads(payload)


async def test_a_message_in_fragments(peer):
    """A frame in five fragments, with a ping between them, is one picture; the ping is answered."""
    parts = [PNG[i : i + 60] for i in range(0, len(PNG), 60)]
    await peer.send(frame(BINARY, parts[0], fin=False))
    for part in parts[1:-1]:
        await peer.send(frame(CONTINUATION, part, fin=False))
    await peer.send(frame(PING, b"between"))
    assert await peer.receive() == (PONG, b"between")
    await peer.send(frame(CONTINUATION, parts[-1]))
    assert (await answer(peer))["frame_id"] == 0


async def test_a_message_byte_by_byte(peer):
    """Where TCP cuts the stream of bytes does not matter."""
    data = frame(TEXT, b'{"type": "ping"}') + frame(BINARY, picture(width=8, height=8))
    for i in range(len(data)):
        await peer.send(data[i : i + 1])
    assert await answer(peer) == {"type": "pong"}
    assert (await answer(peer))["frame_id"] == 0


async def test_many_messages_at_once(peer):
    """A hundred messages in one write are each answered, in order."""
    await peer.send(frame(TEXT, b'{"type": "ping"}') * 50 + frame(TEXT, b"?") * 50)
    kinds = [(await answer(peer))["type"] for _ in range(100)]
    assert kinds == ["pong"] * 50 + ["error"] * 50


async def test_frames_before_the_upgrade_is_answered(http):
    """A frame that a client sends together with its request for the upgrade is not lost."""
    async with RawPeer.connected(await open_url(http), at_once=frame(BINARY, PNG)) as peer:
        assert (await answer(peer))["frame_id"] == 0


MALFORMED = {
    "unknown reserved bit": (frame(BINARY, PNG, rsv=1), 1002),
    "compressed, which was not agreed": (frame(BINARY, PNG, rsv=4), 1002),
    "unknown data opcode": (frame(3, b"of the future"), 1002),
    "unknown control opcode": (frame(11, b"of the future"), 1002),
    "ping in fragments": (frame(PING, b"in parts", fin=False), 1002),
    "ping too long": (frame(PING, bytes(126)), 1002),
    "continuation of nothing": (frame(CONTINUATION, b"of nothing"), 1002),
    "message within a message": (frame(BINARY, b"a", fin=False) + frame(BINARY, b"b"), 1002),
    "half a close code": (frame(CLOSE, b"\x03"), 1002),
    "reserved close code": (frame(CLOSE, (1005).to_bytes(2, "big")), 1002),
    "close reason no UTF-8": (frame(CLOSE, b"\x03\xe8\xff\xfe"), 1007),
    "text no UTF-8": (frame(TEXT, b'{"type": "\xff"}'), 1007),
    "text no UTF-8 across fragments": (
        frame(TEXT, b'{"type": "\xc3', fin=False) + frame(CONTINUATION, b'"}'),
        1007,
    ),
    "text too long": (frame(TEXT, bytes(100_001)), 1009),
    "fragments too long": (
        frame(BINARY, bytes(60_000), fin=False) + frame(CONTINUATION, bytes(60_000)),
        1009,
    ),
    "length 2**63 - 1": (b"\x82\xff" + (2**63 - 1).to_bytes(8, "big") + bytes(4), 1009),
    "length 2**64 - 1": (b"\x82\xff" + (2**64 - 1).to_bytes(8, "big") + bytes(4), 1009),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_messages_close_with_their_code(peer, name):
    """What breaks the protocol is 1002, text that is no UTF-8 1007, too much 1009."""
    data, code = MALFORMED[name]
    await peer.send(data)
    assert await peer.close_code() == code


async def test_a_client_that_still_sends_is_not_reset(peer):
    """After 1009 the rest of the message is read and ignored: a reset could overtake the code."""
    await peer.send(b"\x82\xff" + (8_000_000).to_bytes(8, "big") + bytes(4))
    for _ in range(4):
        await peer.send(bytes(1_000_000))
    assert await peer.close_code() == 1009
    for _ in range(4):
        await peer.send(bytes(1_000_000))
    await peer.send(frame(CLOSE, (1009).to_bytes(2, "big")))
    assert await peer.receive() is None


async def test_a_frame_before_the_error_is_still_answered(peer):
    """A good frame, answered; then a broken one closes."""
    await peer.send(frame(BINARY, PNG))
    assert (await answer(peer))["frame_id"] == 0
    await peer.send(frame(3))
    assert await peer.close_code() == 1002


async def test_a_close_is_answered_by_a_close(peer):
    """A closing message is answered by one, then the server ends the connection."""
    await peer.send(frame(CLOSE, (1000).to_bytes(2, "big") + b"done"))
    assert await peer.close_code() == 1000
    assert await peer.receive() is None


async def test_unsolicited_pongs_do_no_harm(peer):
    """Pongs that answer nothing, or a ping that never was, are ignored."""
    await peer.send(frame(PONG) + frame(PONG, b"x" * 125) + frame(PONG, bytes(8)) * 100)
    await peer.send(frame(BINARY, PNG))
    assert (await answer(peer))["frame_id"] == 0


async def test_a_request_that_is_no_handshake_is_told_so(http):
    """Whoever opens the URL of a stream in a browser learns what it is."""
    session_id = await open_session(http)
    async with http.get(f"/v1/stream/{session_id}") as response:
        detail = "This is a WebSocket: connect with a WebSocket client"
        assert (response.status, await response.json()) == (400, {"detail": detail})


@pytest.mark.parametrize(
    "change",
    [
        ("Upgrade: websocket", "Upgrade: h2c"),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 99"),
        ("Sec-WebSocket-Key: ", "Sec-WebSocket-Key: AAAA"),
    ],
    ids=lambda change: change[1],
)
async def test_a_malformed_upgrade_is_400(http, change):
    """A handshake that cannot be read gets an HTTP answer, and the session stays free."""
    url = await open_url(http)
    async with RawPeer.connected(url, change=change, status=400):
        pass
    async with RawPeer.connected(url) as peer:
        await peer.send(frame(BINARY, PNG))
        assert (await answer(peer))["frame_id"] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"Sec-WebSocket-Version": "12"},
        {"Sec-WebSocket-Version": ""},
        {"Sec-WebSocket-Key": "short"},
        {"Sec-WebSocket-Key": ""},
        {"Connection": "keep-alive"},
    ],
    ids=str,
)
async def test_a_wrong_handshake_is_told_what_a_right_one_has(http, wrong):
    """The author of a WebSocket client reads what to send, and the version that is spoken."""
    right = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    session_id = await open_session(http)
    async with http.get(f"/v1/stream/{session_id}", headers=right | wrong) as response:
        detail = (await response.json())["detail"]
        assert (response.status, response.headers["Sec-WebSocket-Version"]) == (400, "13")
        assert detail == (
            "The WebSocket handshake is not valid: Connection must be Upgrade, "
            "Sec-WebSocket-Version 13, and Sec-WebSocket-Key 16 bytes in base64"
        )


async def test_whoever_was_cut_off_may_come_back_at_once(http):
    """A connection that was reset is noticed, and over, before the next one is refused for it."""
    url = await open_url(http)
    for _ in range(30):
        async with RawPeer.connected(url) as peer:
            await peer.send(frame(BINARY, PNG))
            assert "frame_id" in await answer(peer)
            await peer.send(frame(BINARY, PNG))  # in the model when the connection goes
            peer.reset()


async def test_whoever_has_the_goodbye_may_come_back_at_once(http):
    """The server says goodbye when the session is free: the next connection is never 1008."""
    session_id = await open_session(http, "fake-detect")
    for number in range(30):
        async with http.ws_connect(f"/v1/stream/{session_id}") as ws:
            await ws.send_bytes(picture())
            assert (await ws.receive_json(timeout=10))["frame_id"] == number
