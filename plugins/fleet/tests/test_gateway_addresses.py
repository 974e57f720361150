"""What the gateway connects to is an address that was checked just then, never a name."""

from __future__ import annotations

import asyncio
import contextlib

import gateway_plugin
import grpc
import pytest
from gateway_stand import application, stand_on
from rebinding import NAME, HttpWithResolver, RebindingResolver
from test_gateway_rpc import GRPC, INFER, Door, Peer
from upstreams import Upstream

from mataserver.http.in_process import InProcessConnector
from mataserver_fleet.gateway.connections import ConnectionPool
from mataserver_fleet.gateway.resolving import AddressResolver, UnresolvedHostError
from mataserver_fleet.gateway.rpc import RpcGateway
from mataserver_fleet.gateway.snapshot import Target

ELSEWHERE = "127.0.0.2"
"""An address of this machine that it may not ask."""


@contextlib.asynccontextmanager
async def forbidden(*ports):
    """Listen elsewhere on the ports of servers; give the list of those that were connected to."""
    found = []

    async def note(_reader, writer):
        found.append(writer.get_extra_info("sockname")[1])
        writer.close()

    servers = [await asyncio.start_server(note, ELSEWHERE, port) for port in ports]
    try:
        yield found
    finally:
        for each in servers:
            each.close()


@pytest.fixture
async def names():
    """The resolver of the gateway that is made next."""
    made = RebindingResolver()
    gateway_plugin.NAMES.append(made)
    return made


async def test_a_name_that_leads_elsewhere(names, tmp_path):
    """It is asked where it was permitted, by its own name; elsewhere nobody connects to."""
    upstream = Upstream("one")
    await upstream.start()
    async with stand_on(tmp_path) as stand, forbidden(upstream.port) as reached:
        target = Target(NAME, upstream.port)
        route = {"protocols": frozenset({"http", "ws"})}
        stand.follow(application(target, route=route))
        assert (await stand.ask())[0] == 200
        assert upstream.seen[-1].headers["Host"] == f"{NAME}:{upstream.port}"
        asked, names.address = names.asked, ELSEWHERE
        assert (await stand.ask())[0] == 200, "the connection is one that was checked"
        await upstream.stop()
        status, _, _ = await stand.ask()
        assert status in {502, 503}
        body = b'{"model": "cats"}'
        status, _, _ = await stand.ask("/gateway/shop/v1/sessions", body)
        assert status in {502, 503}
        async with asyncio.timeout(5.0):
            while names.asked < asked + 3:  # probes go on asking
                await asyncio.sleep(0.02)
        assert reached == []
        names.address = "127.0.0.1"
        await upstream.start(upstream.port)
        async with asyncio.timeout(5.0):
            while (await stand.ask())[0] != 200:
                await asyncio.sleep(0.05)
        await upstream.stop()


async def test_the_same_by_grpc(names, tmp_path):
    """Channels are given addresses too: gRPC resolves no name itself, nor when it reconnects."""
    upstream = Upstream("one")
    await upstream.start()
    async with contextlib.AsyncExitStack() as stack:
        stand = await stack.enter_async_context(stand_on(tmp_path))
        peer = await Peer("one").__aenter__()
        made = RpcGateway(stand.gateway, stand.rpc_port())
        rpc = await stack.enter_async_context(made)
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{rpc.port}")
        await stack.enter_async_context(channel)
        target = Target(NAME, upstream.port, rpc=peer.port)
        stand.follow(application(target, route=GRPC, retries=1))
        door = Door(stand, channel, [peer], [target])
        assert await door.ask() == b"one:" + INFER
        names.address = ELSEWHERE
        await peer.__aexit__()
        reached = await stack.enter_async_context(forbidden(peer.port))
        assert [await door.ask() for _ in range(3)] == ["UNAVAILABLE"] * 3
        assert reached == []
    await upstream.stop()


async def test_an_address_that_is_not_permitted(names, tmp_path):
    """What was registered before the setting changed is asked no more, by no way."""
    async with stand_on(tmp_path) as stand, forbidden(0) as reached:
        clock, reaching = (
            asyncio.get_running_loop().time,
            AddressResolver(HttpWithResolver(None, names)),
        )
        links, target = (
            ConnectionPool(clock, reaching, InProcessConnector().connect),
            Target(ELSEWHERE, 1),
        )
        with pytest.raises(UnresolvedHostError, match="outbound_hosts"):
            await links.acquire(target)
        stand.follow(application(target))
        assert (await stand.ask())[0] in {502, 503}
        assert reached == []
