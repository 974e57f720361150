"""Inferences whose heads repeat: what is kept of them, and what is let go."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref

import pytest
from gateway_stand import application, eventually, stand, targets, upstreams  # noqa: F401
from test_gateway_heads import Line, request, tasks

from mataserver_fleet.gateway.connections import UpstreamConnection
from mataserver_fleet.gateway.incoming import HIGH_WATER_BYTES
from mataserver_fleet.gateway.known_heads import KnownHead, KnownHeads
from mataserver_fleet.gateway.snapshot import Consumer

pytestmark = pytest.mark.long


class Place:
    """Stands for what is asked: whether something still holds it can be seen."""


def test_heads_that_the_server_does_not_take_are_not_kept():
    """Nor do they take others' away, however many come: long ones, chunks, those of one program."""
    taken, gone = [], []
    heads = KnownHeads(lambda _request, repeat: taken.append(repeat), None, 1, 1.0)
    for number in range(2_000):
        place = Place()
        heads.learn(None, KnownHead(place, Consumer(1, "shop", b""), b"x" * 100))
        if number:
            taken.pop()
            gone.append(weakref.ref(place))
    del place
    assert taken[0].is_current()
    assert not any(each() for each in gone)
    heads.forget()
    assert not taken[0].is_current()


async def test_no_task_for_a_plain_one(stand, upstreams, targets):  # noqa: F811
    """It waits for its server without one, and a client that leaves takes it back."""
    stand.follow(application(targets[0]))
    async with Line(stand) as line:
        await line.ask(request(b"{}"))
        upstreams[0].pause.clear()
        asking = asyncio.ensure_future(line.ask(request(b"x" * 300_000)))
        async with asyncio.timeout(30):
            while len(upstreams[0].seen) < 2:
                await asyncio.sleep(0.01)
        assert not tasks()
        upstreams[0].pause.set()
        assert json.loads((await asking)[1])["size"] == 300_000
        upstreams[0].pause.clear()
        line.writer.write(request(b"{}"))
        async with asyncio.timeout(30):
            while len(upstreams[0].seen) < 3:
                await asyncio.sleep(0.01)
        line.writer.transport.abort()
        async with asyncio.timeout(30):
            while not upstreams[0].cancelled:
                await asyncio.sleep(0.01)
    assert stand.gateway.servers.get(targets[0]).outstanding == 0
    (count,) = stand.gateway.usage.total.values()
    assert (count.requests, count.bytes_in) == (3, 300_004)
    assert line.hits == 2


@pytest.mark.parametrize("late", [False, True], ids=["in time", "too late as well"])
@pytest.mark.parametrize("size", [100_000, 400_000])
async def test_what_a_task_goes_on_with_is_let_go(stand, upstreams, targets, size, late):  # noqa: F811
    """Its body waits for no collection of cycles, and neither does that of who left."""
    stand.follow(application(targets[0], timeout=0.3))

    def every():
        kinds = {"FastRequest", "StreamedRequest", "ArrivingHit"}
        return [each for each in gc.get_objects() if type(each).__name__ in kinds]

    def begun():
        return [each for each in every() if not any(each is other for other in others)]

    line_of_tensors = "Inference-Header-Content-Length: 2"  # a large one is sent as it arrives
    gc.collect()
    others = every()  # of servers of other tests
    gc.disable()
    try:
        async with Line(stand) as line:
            await line.ask(request(b"{}", line_of_tensors))
            upstreams[0].pause.clear()
            assert (await line.ask(request(b"x" * size, line_of_tensors)))[0].startswith(
                b"HTTP/1.1 504"
            )
            await eventually(lambda: not begun())
            upstreams[0].pause.set()
            await line.ask(
                request(b"{}", line_of_tensors)
            )  # which leaves a connection for the next one
            upstreams[0].pause.clear()
            line.writer.write(request(b"x" * size, line_of_tensors))
            await eventually(lambda: len(upstreams[0].seen) == 4)
            line.writer.transport.abort()
            if late:  # the loop learns of both at once, as it does on a busy machine
                time.sleep(0.4)
            await eventually(lambda: not begun())
        assert line.hits == 3
    finally:
        gc.enable()


def test_a_connection_that_is_not_read_is_not_used_again():
    """Nobody would read it on, and the next answer would never come."""

    class Reading:
        def is_closing(self):
            return False

        def pause_reading(self):
            pass

        def writelines(self, _lines):
            pass

        def get_write_buffer_size(self):
            return unsent[0]

    unsent = [0]
    connection = UpstreamConnection()
    connection.connection_made(Reading())
    for size, unsent[0], reusable in (
        (HIGH_WATER_BYTES, 0, True),
        (HIGH_WATER_BYTES, 1, False),
        (HIGH_WATER_BYTES + 1, 0, False),
    ):
        connection.begin_request()
        connection.end_request()
        connection.data_received(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
        )
        assert (connection.is_complete, connection.is_reusable) == (True, reusable)
