"""Limits that many requests race for."""

from __future__ import annotations

import asyncio

from gateway_stand import KEY, application, consumer, stand, targets, upstreams  # noqa: F401
from test_gateway_rpc import INFER as MESSAGE
from test_gateway_rpc import door  # noqa: F401

WAYS = {"protocols": frozenset({"http", "grpc"})}


async def test_a_quota_by_http(stand, upstreams, targets):  # noqa: F811
    """On new connections and on such as are known: it is granted and no more, however raced for.

    What was granted earlier that day counts.
    """
    stand.follow(application(*targets[:1]))
    assert {each[0] for each in await asyncio.gather(*(stand.ask() for _ in range(8)))} == {200}
    before = len(upstreams[0].seen)
    stand.follow(application(*targets[:1]), consumers=[consumer(1, KEY, quota=20)])
    found = [each[0] for each in await asyncio.gather(*(stand.ask() for _ in range(60)))]
    assert (found.count(200), found.count(429)) == (12, 48), found
    assert len(upstreams[0].seen) == before + 12


async def test_a_quota_by_grpc(door):  # noqa: F811
    """Calls and the messages of a stream alike."""
    shop = application(door.targets[0], route=WAYS)
    door.stand.follow(shop, consumers=[consumer(1, KEY, quota=12)])
    found = await asyncio.gather(*(door.ask(timeout=60) for _ in range(40)))
    granted = [each for each in found if each == b"one:" + MESSAGE]
    assert (len(granted), found.count("RESOURCE_EXHAUSTED")) == (12, 28), found
    assert len(door.peers[0].seen) == 12


async def test_a_key_that_is_rotated_under_load(stand, targets):  # noqa: F811
    """From the moment that another one counts the one of before is 401, also by a known head."""
    shop = application(*targets[:1])
    stand.follow(shop)
    over, late = asyncio.Event(), []

    async def ask():
        while True:
            begun_late = over.is_set()
            status = (await stand.ask())[0]
            assert status in {200, 401}
            if begun_late:
                late.append(status)
                if len(late) > 40:
                    return

    asking = [asyncio.create_task(ask()) for _ in range(6)]
    await asyncio.sleep(0.3)
    stand.follow(shop, consumers=[consumer(1, "another key")])
    over.set()
    await asyncio.gather(*asking)
    assert set(late) == {401}
    assert (await stand.ask(key="another key"))[0] == 200
