"""One quota and one rate of several servers on a database of each kind."""

from __future__ import annotations

import asyncio

import pytest
from stand_in_fleet import FAST, until
from test_gateway_fleet import infer, ready

INFER = "/gateway/shop/v2/models/m/infer"
READY = "/gateway/shop/v2/health/ready"
SELDOM = {**FAST, "gateway": {"settle": 3600.0}}


@pytest.fixture
async def shops(fleets, serve):
    """Two servers with one application, and what asks one of them so often as a consumer."""
    async with fleets(1, **SELDOM) as fleet, serve(fleet=SELDOM) as other:
        [triton] = fleet.tritons
        triton.asked_by = []
        triton.faults = {"/m/infer": infer(triton), "/m/ready": ready(triton)}
        first = fleet.client
        assert (await fleet.load())[0] == 200
        await first.made("/api/apps", {"name": "shop", "resend": True})
        await first.made("/api/apps/shop/routes/m")

        async def granted(client, key, count):
            given = {"headers": {"apikey": key}, "data": b"{}"}
            statuses = [(await client.ask("POST", INFER, "", **given))[0] for _ in range(count)]
            assert set(statuses) <= {200, 429}, statuses
            return statuses.count(200)

        yield first, other, granted


async def key_of(clients, **limits):
    """Return the key of a new consumer, once each server knows it."""
    made = await clients[0].made("/api/consumers", {"name": "till", **limits})
    await clients[0].made("/api/apps/shop/consumers/till")
    for client in clients:
        async with asyncio.timeout(10):
            while (await client.ask("GET", READY, "", headers={"apikey": made["key"]}))[0] != 200:
                await asyncio.sleep(0.05)
    return made["key"]


async def settle(client):
    """Have a server write its counts, and read those of others."""
    assert (await client.ask("GET", "/api/usage"))[0] == 200


def limits_of(client):
    """Return the limits that a server keeps."""
    return client.server.service("fleet")._data_plane._gateway.limits


async def test_two_servers_grant_one_quota(shops):
    """What one has granted the other learns as soon as it grants something itself."""
    first, other, granted = shops
    key = await key_of((first, other), quota=30)
    for client in (first, other):
        await settle(client)
    total = await granted(first, key, 40)
    await settle(first)
    assert total == 30

    async def is_learned():
        return limits_of(other)._settled.get("till", 0) >= 30

    while await granted(other, key, 1):  # it does not know at the first
        total += 1
        await until(is_learned)
    assert total <= 31


async def test_two_servers_grant_one_rate(shops):
    """Each its part, of a minute that stands still."""
    first, other, granted = shops
    for client in (first, other):
        limits_of(client)._ticks = lambda: 0.0
    key = await key_of((first, other), rate=60)
    await settle(first)
    assert limits_of(first).gateways == 2
    assert await granted(first, key, 60) == 30
    assert await granted(other, key, 60) == 30
