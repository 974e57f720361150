"""Streams whose connection is lost while nobody reads: a ping of the server is unread then."""

from __future__ import annotations

import asyncio

import pytest
from api_stand_in import BOXES, StandIn
from client_cases import SOON, connected, every, pictures, widths

from mataserver_client import AuthenticationFailed


async def lose(client, stand_in, code):
    """Ping, close with ``code`` if there is one, and hang up; wait until the client has lost it."""
    [stream] = stand_in.streams.values()
    await stream.socket.ping()
    if code is not None:
        await stream.socket._writer.close(code)
    stream.socket._req.transport.close()
    [connection] = client._transport._session.connector._acquired
    while connection.is_connected():
        await asyncio.sleep(0)


async def read(stand_in, seen, code=None):
    """Read five frames, and lose the connection behind the answer to the second."""
    async with connected(stand_in) as client:
        async for item in client.stream(BOXES, iter(pictures(5)), reconnect=SOON):
            seen.append(item)
            if item.frame_id == 1:
                await lose(client, stand_in, code)


@pytest.mark.parametrize("code", [None, 1001, 1012])
async def test_a_connection_that_is_lost_unread_is_made_again(code):
    """The pong that cannot be sent any more is no error."""
    stand_in, seen = StandIn(), []
    await read(stand_in, seen, code)
    assert widths(seen) == every(5)
    assert stand_in.connections == 2


async def test_the_reason_of_an_end_is_read_behind_a_ping():
    """What the server closed with for good reaches the caller."""
    stand_in, seen = StandIn(), []
    with pytest.raises(AuthenticationFailed):
        await read(stand_in, seen, 4001)
    assert widths(seen) == every(2)
    assert stand_in.connections == 1


async def test_a_session_that_was_deleted_unread_ends_the_stream():
    """An orderly end is one, read or not."""
    stand_in, seen = StandIn(), []
    await read(stand_in, seen, 1000)
    assert widths(seen) == every(2)
