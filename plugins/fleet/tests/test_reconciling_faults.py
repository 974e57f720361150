"""Tritons that lie, hang or break off while models are loaded, on both databases."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
import sqlalchemy as sa
from aiohttp import web
from stand_in_fleet import FAST, until
from stand_in_triton import stand_ins

from mataserver_fleet import retry_delays, triton_watch
from mataserver_fleet.pages import date
from mataserver_fleet.placements import Placements
from mataserver_fleet.retry_delays import RetryDelays
from mataserver_fleet.store import Store
from mataserver_fleet.tables import PLACEMENTS

pytestmark = pytest.mark.long

OK = {"status": "ok"}
DAY = 86_400.0


async def test_tritons_that_lie(fleets):
    """One that hangs, answers garbage or too much, or is another server, is told, and no more."""

    async def hang(_request):
        await asyncio.sleep(60)

    async def garbage(_request):
        return web.Response(body=b"\xff{]")

    async def flood(_request):
        return web.Response(body=b" " * 20_000_000)

    async def other(_request):
        return web.json_response({"name": "nginx", "extensions": []})

    def stats(**told):
        async def answer(_request):
            counted = {"name": "m", "version": "1", **told}
            return web.json_response({"model_stats": [counted]})

        return answer

    async with fleets(1) as fleet:
        await fleet.load()
        (triton,) = fleet.tritons
        for ending, fault, state in (
            ("/live", hang, "offline"),
            ("/stats", garbage, "unready"),
            ("/stats", flood, "offline"),
            ("/v2", other, "unready"),
            ("/live", garbage, "ready"),
            ("/v2", garbage, "unready"),
            ("/stats", stats(inference_count=10**30), "unready"),
            ("/live", garbage, "ready"),
            ("/stats", stats(last_inference=10**18), "unready"),
            ("/live", garbage, "ready"),
            ("/stats", stats(inference_count=-5), "unready"),
        ):
            triton.faults = {ending: fault}
            told = await fleet.state(0, state)
            assert bool(told["reason"]) == (state != "ready"), ending
        triton.faults = {"/stats": stats(version="-1")}
        await fleet.state(0, "ready")
        triton.faults = {}
        await fleet.model("ready")
        assert (await fleet.state(0, "ready"))["gpu_figures"] == [
            {"id": "GPU-1", "used": 1e9, "total": 24e9, "load": 0.5}
        ]


async def test_a_load_that_hangs(fleets):
    """It is given up after its time, and told; the Triton is looked after meanwhile."""
    async with fleets(1, load_timeout=0.5) as fleet:
        fleet.tritons[0].load_seconds = 2.0
        status, done = await fleet.load()
        assert (status, done["status"]) == (502, "partial")
        assert (await fleet.client.ask("GET", "/api/tritons/t0"))[1]["state"] == "ready"


async def test_a_push_that_breaks_off(fleets):
    """It is sent again at once, then later and later; who asks for it anew has it sent at once."""
    async with fleets(1, load_timeout=1.0) as fleet:
        (triton,), tries = fleet.tritons, []

        async def cut(request):
            tries.append(request.path)
            request.transport.abort()
            return web.Response()

        triton.faults = {"/m/load": cut}
        await fleet.load()

        async def told():
            (placed,) = (await fleet.model())["tritons"]
            return re.search("it is tried again in [1-5] s", placed["reason"])

        await until(told)
        assert len(tries) == 2
        triton.faults = {}
        assert (await fleet.load())[0] == 200
        assert (await fleet.model())["tritons"][0]["reason"] == ""


async def test_a_clock_that_is_set_back(fleets, monkeypatch):
    """A model that waits is tried again in its time, and it is told when its Triton answered."""
    monkeypatch.setattr(retry_delays, "FIRST", 0.3)
    monkeypatch.setattr(triton_watch, "NOTE_SECONDS", 0.1)
    async with fleets(1, registered=0) as fleet:
        (triton,), back = fleet.tritons, [0.0]
        store = fleet.client.server.service("fleet")._components.store
        monkeypatch.setattr(store, "clock", lambda: time.time() - back[0])
        await fleet.register(0)
        triton.refuse = lambda _files: "bad file"
        assert (await fleet.load())[0] == 502
        back[0] += DAY
        triton.refuse = None
        await fleet.model("ready")
        back[0] += DAY
        behind = date(store.clock() + DAY / 2)

        async def is_told():
            return (await fleet.state(0, "ready"))["answered_at"] < behind

        await until(is_told)


def test_how_long_a_model_waits():
    """Twice as long each time, up to a minute, and for what it is of alone."""
    now = [0.0]
    delays = RetryDelays(lambda: now[0])
    assert [delays.start(1, 7, interrupted=True) for _ in range(7)] == [
        0,
        5,
        10,
        20,
        40,
        60,
        60,
    ]
    assert [delays.start(2, 7, interrupted=False) for _ in range(3)] == [5, 10, 20]
    assert (
        delays.is_waiting(1, 7),
        delays.is_waiting(1, 8),
        delays.is_waiting(3, 7),
    ) == (True, False, False)
    delays.clear_refused()
    assert (delays.is_waiting(1, 7), delays.is_waiting(2, 7)) == (True, False)
    now[0] = 60.0
    assert not delays.is_waiting(1, 7)
    assert delays.start(1, 8, interrupted=True) == 0
    delays.clear(1)
    assert delays.start(1, 8, interrupted=False) == 5


async def test_a_port_of_grpc_that_is_none(fleets):
    """Where nothing speaks gRPC it is told why a model is not loaded yet."""
    async with fleets(1, load_timeout=1.0) as fleet:
        change = {"grpc_port": fleet.tritons[0].port}
        assert (await fleet.client.ask("PATCH", "/api/tritons/t0", json=change))[0] == 200
        await asyncio.sleep(1.0)  # what watches it has heard of it
        status, done = await fleet.load()
        assert (status, done["tritons"][0]["status"]) == (502, "waiting")
        assert done["tritons"][0]["reason"].startswith("gRPC: "), done
        store = Store(fleet.client.server.service("database").database)
        for _ in range(10):  # what came before may be noted yet
            told = await store.version()
            await asyncio.sleep(1.0)
            if await store.version() == told:
                return
        raise AssertionError("what fails as before is no change")


async def test_the_same_failure_in_other_words(fleets):
    """What a library says of it is noted each time; only another failure is a change."""
    async with fleets(1) as fleet:
        await fleet.load()
        await fleet.tritons[0].die()  # nobody else has anything to say of it then
        await fleet.state(0, "offline")
        store = Store(fleet.client.server.service("database").database)
        placements = Placements(store)
        async with store.read() as connection:
            triton = await connection.scalar(sa.select(PLACEMENTS.c.triton_id))
        (wanted,) = await placements.at(triton)
        for reason, told in (("gRPC: no", True), ("gRPC: it is not", False), ("HTTP: no", True)):
            before = await store.version()
            await placements.note_reason(wanted, triton, reason)
            assert (await store.version() != before) is told, reason
            async with store.read() as connection:
                assert await connection.scalar(sa.select(PLACEMENTS.c.reason)) == reason


async def test_addresses_that_are_not_permitted(serve):
    """Of the server's own network only what ``outbound_hosts`` names is asked, ever."""
    async with stand_ins(1) as (triton,), serve(fleet=FAST, outbound_hosts=[]) as client:
        body = {"name": "t0", "host": "127.0.0.1", "port": triton.port}
        status, answer = await client.ask("POST", "/api/tritons", json=body)
        assert (status, "outbound_hosts" in answer["error"]) == (400, True)
        assert (await client.ask("GET", "/api/tritons"))[1]["total"] == 0
