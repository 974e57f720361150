"""Streams whose session the server has forgotten: it was restarted, or waited too long."""

from __future__ import annotations

import asyncio

import pytest
from api_stand_in import BOXES, Refusal, StandIn, picture
from client_cases import SOON, collect, connected, every, pictures, widths

from mataserver_client import InvalidParams, NotFound, Unavailable


async def forget(stand_in):
    """Lose every session, and close their sockets as a server does that ends."""
    streams = dict(stand_in.streams)
    stand_in.streams.clear()
    stand_in.deleted.extend(streams)
    for stream in streams.values():
        await stream.socket.close(code=1001)


async def interrupted(client, stand_in, target=BOXES, **options):
    """Yield the results of six frames; behind that of frame 2 the session is forgotten."""
    frames = iter(pictures(6))
    async for item in client.stream(target, frames, **options):
        yield item
        if item.frame_id == 2:
            await forget(stand_in)


@pytest.mark.parametrize("window", [1, 2])
async def test_a_stream_outlives_a_restart_of_the_server(window):
    """Another session is made as the first one was; its first result has reset; it is deleted."""
    stand_in, seen, params = StandIn(), [], []
    async with connected(stand_in) as client:
        asked = {"window": window, "reconnect": SOON, "confidence": 0.5}
        async for item in interrupted(client, stand_in, **asked):
            seen.append(item)
            params += [stream.params for stream in stand_in.streams.values()]
    assert widths(seen)[:3] == every(3)
    assert widths(seen)[-1] == (5, 6)
    assert [item.frame_id for item in seen if item.reset] == [seen[3].frame_id]
    assert params == [{"confidence": 0.5}] * len(seen)
    assert len(stand_in.deleted) == 2
    assert stand_in.streams == {}
    assert widths(seen) == every(6) or window > 1


async def test_a_session_of_the_callers_is_not_replaced():
    """Only who made it knows what it was."""
    stand_in, seen = StandIn(), []
    async with connected(stand_in) as client:
        session = await client.create_session(BOXES)
        with pytest.raises(NotFound, match="does not exist or has expired"):
            await collect(interrupted(client, stand_in, session, reconnect=SOON), seen)
    assert widths(seen) == every(3)


async def test_without_reconnect_no_session_is_made_anew():
    """A lost connection is the end then, whatever the reason."""
    stand_in = StandIn()
    async with connected(stand_in) as client:
        with pytest.raises(Unavailable, match="going away"):
            await collect(interrupted(client, stand_in, reconnect=False))
    assert stand_in.connections == 1


async def refused(stand_in, client, status, seen):
    """Read a stream whose second session is refused once, with ``status``."""

    async def frames():
        yield picture(1)
        asked = len(stand_in.requests)
        await forget(stand_in)
        while len(stand_in.requests) == asked:  # the socket is opened, and closed with 4004
            await asyncio.sleep(0)
        stand_in.refusals.append(Refusal(status, b'{"detail": "Not so"}'))
        yield picture(2)

    await collect(client.stream(BOXES, frames(), reconnect=SOON), seen)


async def test_a_server_that_is_not_ready_yet_is_asked_again():
    """503 for the new session is one of the tries."""
    stand_in, seen = StandIn(), []
    async with connected(stand_in) as client:
        await refused(stand_in, client, 503, seen)
    assert widths(seen) == every(2)


async def test_a_session_that_is_refused_for_good_ends_the_stream():
    """What will not pass is raised at once, such as a parameter that the new server refuses."""
    stand_in, seen = StandIn(), []
    async with connected(stand_in) as client:
        with pytest.raises(InvalidParams, match="Not so"):
            await refused(stand_in, client, 422, seen)
    assert widths(seen) == every(1)
