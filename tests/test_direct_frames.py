"""Frames that pass by aiohttp's reader: a client cannot tell, whatever it sends."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import aiohttp

from conftest import FAKES, picture, register
from mataserver import testing
from mataserver.http import stream_connection
from mataserver.http.stream_direct import DirectConnection
from mataserver.http.websocket_framing import FrameChecker
from mataserver.serving.frames import FrameSession
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
    open_url,
    session_info,
    session_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

VARYING = re.compile(rb'(?<=session_id":")\w+|(?<=_ms":)[\d.]+|(?<=timestamp":)[\d.]+')
"""What differs from one session to the next, and times."""
MOST = 100_000
"""Bytes of a message at most."""
ONE = frame(BINARY, PNG)
SAID = frame(TEXT, b'{"type":"ping"}')
LONG = frame(BINARY, picture(64, 48) + bytes(70_000))
PIECES = [PNG[at : at + 60] for at in range(0, len(PNG), 60)]
FRAGMENTS = [
    frame(BINARY, PIECES[0], fin=False),
    *(frame(CONTINUATION, piece, fin=False) for piece in PIECES[1:-1]),
    frame(CONTINUATION, PIECES[-1]),
]
HELLO = b"\0\0\0\0hello"
CASES: dict[str, list[tuple[list[bytes], int]]] = {
    "several": [([frame(BINARY, picture(8 * width, 8))], 1) for width in range(1, 8)],
    "large": [([LONG], 1), ([LONG[:50_000], LONG[50_000:]], 1), ([LONG], 1)],
    "byte by byte": [([ONE], 1), ([bytes((b,)) for b in ONE], 1)],
    "cut in its head": [([ONE[:3], ONE[3:]], 1)] * 2,
    "no picture": [([frame(BINARY, b"nothing")], 1), ([ONE], 1)],
    "empty": [([frame(BINARY)], 1), ([ONE], 1)],
    "a text between": [([ONE], 1), ([SAID], 1), ([ONE], 1)],
    "a text before, in one": [([SAID + ONE], 2)],
    "a ping before, in one": [([frame(PING, b"x") + ONE], 2)],
    "a pong before, in one": [([ONE], 1), ([frame(PONG, b"x") + ONE], 1)],
    "fragments": [([ONE], 1), (FRAGMENTS, 1), ([ONE], 1)],
    "a ping among fragments": [([*FRAGMENTS[:1], frame(PING, b"x"), *FRAGMENTS[1:]], 2)],
    "a pong among fragments": [([*FRAGMENTS[:1], frame(PONG, b"x"), *FRAGMENTS[1:]], 1)],
    "a frame among fragments": [([ONE], 1), ([*FRAGMENTS[:2], ONE], 1)],
    "a frame behind an empty part": [([frame(BINARY, b"", fin=False), ONE], 1)],
    "a continuation of nothing": [([ONE], 1), ([frame(CONTINUATION, PNG)], 1)],
    "reserved bits": [([ONE], 1), ([frame(BINARY, PNG, rsv=4)], 1)],
    "an unknown one": [([ONE], 1), ([frame(3, PNG)], 1)],
    "not masked": [([ONE], 1), ([b"\x82\x05hello"], 1)],
    "too large": [([ONE], 1), ([frame(BINARY, bytes(MOST + 1))], 1)],
    "as large as may be": [([frame(BINARY, picture(64, 48).ljust(MOST, b"\0"))], 1)],
    "a length in two bytes": [([b"\x82\xfe\x00\x05" + HELLO], 1)],
    "a length in eight bytes": [([b"\x82\xff" + (5).to_bytes(8, "big") + HELLO], 1)],
    "a pong's length in two bytes": [([b"\x8a\xfe\x00\x05" + HELLO], 1)],
    "a pong that is too long": [([frame(PONG, bytes(126))], 1)],
    "goodbye": [([ONE], 1), ([frame(CLOSE, b"\x03\xe8bye")], 1)],
    "goodbye, in one": [([frame(CLOSE, b"\x03\xe8bye") + ONE], 1)],
}


async def told(http: aiohttp.ClientSession, steps: list[tuple[list[bytes], int]]) -> list[object]:
    """Return what a session answers, step by step, and its counts; its pings are answered."""
    found: list[object] = []
    url = await open_url(http)
    async with RawPeer.connected(url) as peer:
        for pieces, count in steps:
            for piece in pieces:
                await peer.send(piece)
            left = count
            while left:
                received = await peer.receive()
                if received is None or received[0] == CLOSE:
                    return [*found, received]
                opcode, payload = received
                found.append((opcode, VARYING.sub(b"...", payload)))
                if opcode == PING:
                    await peer.send(frame(PONG, payload))
                else:
                    left -= 1
        info = await session_info(http, session_of(url))
    return [*found, {name: info[name] for name in info if "frames" in name or name == "results"}]


async def all_told(folder: Path, monkeypatch: pytest.MonkeyPatch, *, way: bool) -> tuple[dict, int]:
    """Return what every case is told, and how many frames passed by."""
    register(folder, {f"fake-{task}": task for task in FAKES})
    take, taken = DirectConnection.handle_frame, []

    def noted(self: DirectConnection, data: bytes, begin: int, end: int) -> bool:
        passed = take(self, data, begin, end)
        taken.append(passed)
        return passed

    given = {"engine": "thread", "short_way": way, "max_body_mb": MOST / 1e6, "max_sessions": 100}
    with monkeypatch.context() as patched:
        patched.setattr(DirectConnection, "handle_frame", noted)
        async with (
            testing.serving(folder, **given) as served,
            aiohttp.ClientSession(served.url, headers=served.headers) as http,
        ):
            return {name: await told(http, steps) for name, steps in CASES.items()}, sum(taken)


async def test_no_client_can_tell(tmp_path, monkeypatch):
    """Every sequence of frames is answered alike, goodbyes and what is wrong with them too."""
    ours, passed = await all_told(tmp_path / "short", monkeypatch, way=True)
    theirs, none = await all_told(tmp_path / "long", monkeypatch, way=False)
    assert passed > len(CASES)
    assert none == 0
    assert not {name: (ours[name], theirs[name]) for name in CASES if ours[name] != theirs[name]}


class Swapped:
    """The frames of a session whose model is done with the third before the second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._begin = FrameSession.begin
        self.held: list[tuple[Callable[..., None], object, float]] = []
        self._tasks: list[asyncio.Task[None]] = []

        def begin(session, image, form, take):
            return self._begun(session, image, form, take)

        monkeypatch.setattr(FrameSession, "begin", begin)
        monkeypatch.setattr(stream_connection, "choose_depth", lambda *_: 3)

    def _begun(self, session, image, form, take):
        """Begin a frame; of all but the first is kept what came of it."""
        if session.frames == 1:
            return self._begin(session, image, form, take)

        def later(found, waited):
            self.held.append((take, found, waited))
            if len(self.held) == 2:
                self._tasks.append(asyncio.get_running_loop().create_task(self._tell()))

        return self._begin(session, image, form, later)

    async def _tell(self) -> None:
        for take, found, waited in reversed(self.held):
            take(found, waited)
            for _ in range(5):  # who sends the answers looks for one, and waits on
                await asyncio.sleep(0)


async def test_a_frame_that_is_answered_before_the_one_before_it(tmp_path, monkeypatch):
    """Of two frames under way the second may be done first: both are answered, in their order."""
    register(tmp_path, {"fake-detect": "detect"})
    swapped = Swapped(monkeypatch)
    told: list[int] = []
    async with (
        testing.serving(tmp_path, engine="process", short_way=True) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
        RawPeer.connected(await open_url(http)) as peer,
    ):
        for sent, count in ((ONE, 1), (ONE + ONE, 3)):
            await peer.send(sent)
            while len(told) < count:
                opcode, payload = await peer.receive()
                if opcode == PING:
                    await peer.send(frame(PONG, payload))
                else:
                    told.append(json.loads(payload)["frame_id"])
    assert told == [0, 1, 2]
    assert len(swapped.held) == 2


def test_a_flood_of_small_frames_leaves_the_others_their_turn():
    """Of one read 64 messages are taken at once, 64 go by the reader and its queue; others wait."""

    class Reader:
        read = b""

        def feed_data(self, data: bytes) -> tuple[bool, bytes]:
            self.read += data
            return False, b""

        def feed_eof(self) -> None:
            raise AssertionError

    class Share:
        def take(self, _size: int) -> None:
            pass

        def hold(self, _size: int) -> None:
            pass

        def give_back(self) -> None:
            pass

    taken: list[bytes] = []

    def take(data: bytes, begin: int, end: int) -> bool:
        taken.append(data[begin:end])
        return True

    reader, failures, rest = Reader(), [], []
    framing = FrameChecker(reader, Share(), failures.append, rest.append)
    framing.handler = take
    flood = frame(PONG) * 1000
    framing.feed_data(flood)
    assert (len(taken), failures) == (64, [])
    assert reader.read == flood[: len(flood) * 64 // 1000]
    assert b"".join(taken) + reader.read + rest[0] == flood
