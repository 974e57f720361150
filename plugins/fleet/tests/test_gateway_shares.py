"""One consumer has a share of the bytes in flight, as a caller of the server itself."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from gateway_stand import KEY, application, eventually, stand_on, targets, upstreams  # noqa: F401
from test_gateway_heads import Line, request
from test_gateway_rpc import GRPC, INFER, SERVICE, Peer

from mataserver_fleet.gateway.rpc import RpcGateway
from mataserver_fleet.gateway.snapshot import Target

LIMITS = {"max_inflight_mb": 4, "max_body_mb": 4, "caller_share": 0.5}
LARGE = b"x" * 1_500_000


@pytest.mark.parametrize("known", [False, True])
async def test_bodies_in_flight(tmp_path, targets, known):  # noqa: F811
    """One whose body arrives slowly has no second one beyond its share; others have theirs."""
    async with stand_on(tmp_path, LIMITS) as stand, Line(stand) as line:
        stand.follow(application(*targets[:1], consumers=frozenset({1, 2})))
        budget = stand.server.composed.budget
        if known:
            assert (await line.ask(request(b"{}")))[0].startswith(b"HTTP/1.1 200")
        before = line.hits
        line.writer.write(request(LARGE)[:-1])
        await eventually(lambda: budget.of_owner == {"gateway:1": len(LARGE) - 1})
        assert line.hits - before == known
        statuses = [(await stand.ask(body=LARGE, key=key))[0] for key in (KEY, "key-of-ben")]
        assert statuses == [503, 200]
        assert (await line.ask(LARGE[-1:]))[0].startswith(b"HTTP/1.1 200")
        assert (await stand.ask(body=LARGE))[0] == 200
        await eventually(lambda: not budget.taken)
        assert budget.of_owner == {}


async def test_a_body_above_the_share(tmp_path, targets):  # noqa: F811
    """Is answered where its consumer has nothing else in flight."""
    async with stand_on(tmp_path, LIMITS) as stand:
        stand.follow(application(*targets[:1]))
        assert [(await stand.ask(body=LARGE * 2))[0] for _ in range(3)] == [200] * 3


async def test_messages_in_flight(tmp_path, upstreams):  # noqa: F811
    """Messages of gRPC count as their consumer's, those of calls and those of streams."""
    async with stand_on(tmp_path, LIMITS) as stand, Peer("one") as peer:
        budget = stand.server.composed.budget
        target = Target("127.0.0.1", upstreams[0].port, rpc=peer.port)
        stand.follow(application(target, route=GRPC))
        peer.pause.clear()
        async with (
            RpcGateway(stand.gateway, stand.rpc_port()) as rpc,
            grpc.aio.insecure_channel(f"127.0.0.1:{rpc.port}") as channel,
        ):
            call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            asking = asyncio.ensure_future(call(INFER, metadata=(("apikey", KEY),)))
            await eventually(lambda: peer.seen)
            assert budget.of_owner == {"gateway:1": len(INFER)}
            peer.pause.set()
            assert await asking == b"one:" + INFER
            await eventually(lambda: budget.of_owner == {})
