"""Large answers of known requests are sent from the memory of their worker, which reuses it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket

import msgspec
import pytest

from api_answers import until
from conftest import picture, register
from known_heads import peer_of
from mataserver import testing
from odd_requests import request

ASK = ("Content-Type: image/jpeg", "Accept: application/msgpack")
INFER = "/v1/infer?model=fake-depth"
WIDTHS = (640, 600, 512, 448)
OTHERS = 12
"""More answers of a megabyte than the shared memory holds."""


def asking(width, target=INFER):
    """Return a request for the map of a picture's depths."""
    return request("POST", target, *ASK, body=picture(width, 480, form="JPEG"))


def is_depth_of(found, width):
    """Whether an answer is the map of a picture of that width, to the last pixel."""
    status, _, body = found
    values = memoryview(msgspec.msgpack.decode(body)["depth_map"]).cast("f").tolist()
    ramp = values[:width]
    sound = len(set(ramp)) == width and sorted(ramp) == ramp
    return status == 200 and sound and values == ramp * 480


def on_uvloop(test):
    """Run a test on the loop that serves: its transports keep views of what they could not send."""
    uvloop = pytest.importorskip("uvloop")

    @functools.wraps(test)
    def run(*args, **fixtures):
        uvloop.run(test(*args, **fixtures))

    return run


@contextlib.asynccontextmanager
async def serving(folder):
    """Give a server whose model has a process of its own."""
    register(folder, {"fake-depth": "depth", "fake-detect": "detect"})
    async with testing.serving(folder, engine="process", decode_threads=2) as server:
        yield server


def refused(_descriptor, _pieces):
    """Write as to a socket that has no room."""
    raise BlockingIOError


def shrink(descriptor):
    """Leave a socket room for hardly anything."""
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def part(size):
    """Return a function that writes as to a socket that has room for so many bytes."""
    write = os.writev

    def written(descriptor, pieces):
        return write(descriptor, [b"".join(pieces)[:size]])

    return written


@pytest.mark.parametrize(
    "write", [refused, part(9), part(700_000), os.writev], ids=["none", "9", "700000", "all"]
)
@on_uvloop
async def test_what_a_client_has_not_read_is_not_written_over(tmp_path, monkeypatch, write):
    """Whatever the socket takes at once: a client that reads late reads its own answer."""
    asked = [asking(width) for width in WIDTHS]
    async with serving(tmp_path) as served, peer_of(served) as late, peer_of(served) as other:
        await late.warm(asked[0])
        await other.warm(asked[1])
        calls = []

        def counted(descriptor, pieces):
            if not calls:  # the late one's: its transport keeps the rest
                shrink(descriptor)
            calls.append(descriptor)
            return write(descriptor, pieces)

        monkeypatch.setattr(os, "writev", counted)
        late.writer.write(asked[0])
        for number in range(OTHERS):
            width = 1 + number % 3
            found, hits = await other.hits(asked[width])
            assert is_depth_of(found, WIDTHS[width])
        assert is_depth_of(await late.read(), WIDTHS[0])
    assert hits == 1
    assert len(calls) == OTHERS + 1


@on_uvloop
async def test_a_large_answer_stands_behind_the_small_one_before_it(tmp_path):
    """Asked for in one segment: the loop sends a small one later than a large one is written."""
    small, large = asking(640, "/v1/infer?model=fake-detect"), asking(640)
    async with serving(tmp_path) as served, peer_of(served) as peer:
        for each in (small, large):
            await peer.warm(each)
        peer.writer.write((small + large) * 4)
        for _ in range(4):
            assert "detections" in msgspec.msgpack.decode((await peer.read())[2])
            assert is_depth_of(await peer.read(), 640)


@on_uvloop
async def test_many_clients_get_their_own(tmp_path):
    """Answers that wait behind one another in the memory, and some that find no room there."""

    async def ask(served, width):
        async with peer_of(served) as peer:
            for _ in range(6):
                assert is_depth_of(await peer.ask(asking(width)), width)

    async with serving(tmp_path) as served:
        await asyncio.gather(*(ask(served, width) for width in WIDTHS * 2))


@on_uvloop
async def test_an_answer_that_is_not_sent_at_once_is_kept(tmp_path):
    """The last one of a server that is told to stop takes the general way."""
    asked = asking(640, f"{INFER}&seconds=0.2")
    async with serving(tmp_path) as served, peer_of(served) as peer:
        await peer.warm(asked)
        peer.writer.write(asked)
        await until(lambda: peer.lifecycle.active == 1)
        served.composed.lifecycle.stopping.set()
        assert is_depth_of(await peer.read(), 640)
