"""A host that drops packets: nothing refuses the connection, and nothing accepts it."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from api_stand_in import BOXES, picture
from client_cases import collect

from mataserver_client import AsyncClient, ConnectionFailed
from mataserver_client import transport as module


@pytest.fixture
def silent():
    """The address of a socket whose queue of connections is full: the system drops others."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            filling = stack.enter_context(socket.socket())
            filling.settimeout(0.0)
            filling.connect_ex(listening.getsockname())
        yield "http://127.0.0.1:{1}".format(*listening.getsockname())


WAYS = {
    "request": lambda client: client.health(),
    "events": lambda client: collect(client.generate(BOXES, picture(1))),
    "job": lambda client: collect(client.follow_job("1")),
    "stream": lambda client: collect(client.stream("sess_0123456789ab", [picture(1)])),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_connection_is_waited_for_so_long(silent, monkeypatch, way):
    """Whatever is asked, and however patient its caller is, a host that is not there is told."""
    monkeypatch.setattr(module, "CONNECT_TIMEOUT", 0.05)
    async with asyncio.timeout(15), AsyncClient(silent, timeout=None) as client:
        with pytest.raises(ConnectionFailed, match="did not answer in time"):
            await WAYS[way](client)
