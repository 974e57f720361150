"""Which servers count as ready: those that stop answering probes, or lose a model."""

from __future__ import annotations

import asyncio

from aiohttp import web
from gateway_stand import (  # noqa: F401
    INFER,
    application,
    eventually,
    stand,
    stand_on,
    targets,
    upstreams,
)
from upstreams import RawServer, Upstream

from mataserver_fleet.gateway import probes
from mataserver_fleet.gateway.snapshot import Target


async def test_a_server_that_stops_answering_probes(stand, upstreams, targets):  # noqa: F811
    """What hangs in a server that turns out to be dead is sent to another, where it may be."""

    async def act(_writer):
        await asyncio.sleep(30)

    async with RawServer(act) as server:
        dead = Target("127.0.0.1", server.port, 1e6)
        stand.follow(application(dead, targets[0], resend=True, timeout=20.0))
        await eventually(lambda: stand.gateway.servers.get(dead).recovered_at == 0.0)
        asking = asyncio.ensure_future(stand.ask())
        await eventually(lambda: server.asked == 1)
        stand.gateway.servers.get(dead).mark_dead()
        assert (await asking)[0] == 200
    assert len(upstreams[0].seen) == 1


async def test_a_model_that_is_not_ready(stand, upstreams, targets):  # noqa: F811
    """A server that has not the model is not asked for it; when it has it, it is asked again."""
    upstreams[0].ready.clear()
    stand.follow(application(*targets))
    await eventually(lambda: stand.gateway.servers.get(targets[0]).unready)
    for _ in range(10):
        assert (await stand.ask())[1]["server"] == "two"
    upstreams[0].ready.add("")
    await eventually(lambda: not stand.gateway.servers.get(targets[0]).unready)
    upstreams[1].ready.clear()
    await eventually(lambda: stand.gateway.servers.get(targets[1]).unready)
    assert (await stand.ask())[1]["server"] == "one"
    upstreams[0].ready.clear()
    await eventually(lambda: stand.gateway.servers.get(targets[0]).unready)
    assert (await stand.ask())[0] == 503


async def test_a_server_that_lost_its_models(stand, upstreams, targets):  # noqa: F811
    """One that restarted says 400 for a model that it does not have yet: another is asked."""

    class Restarted(Upstream):
        async def inferred(self, request):
            self.ready.clear()
            return web.json_response({"error": "unknown model"}, status=400)

    server = Restarted("restarted")
    await server.start()
    stand.follow(application(Target("127.0.0.1", server.port, 1e6), targets[0]))
    assert (await stand.ask())[1]["server"] == "one"
    assert (await stand.ask())[1]["server"] == "one"
    assert len(server.seen) == 1
    await server.stop()


async def test_a_version_that_nobody_has(stand, upstreams, targets):  # noqa: F811
    """What a server says of it is the client's, once all were asked; nobody is doubted for it."""

    class Without(Upstream):
        async def inferred(self, request):
            return web.json_response({"error": "unknown version"}, status=400)

    servers = [Without("a"), Without("b")]
    for server in servers:
        await server.start()
    pair = [Target("127.0.0.1", each.port) for each in servers]
    stand.follow(application(*pair))
    for number in range(10, 14):
        path = INFER.replace("/infer", f"/versions/{number}/infer")
        assert (await stand.ask(path))[:2] == (400, {"error": "unknown version"})
    assert [len(each.seen) for each in servers] == [4, 4]
    for each in pair:
        known = stand.gateway.servers.get(each)
        assert (known.is_suspect, known.unready) == (False, set())
    for server in servers:
        await server.stop()


async def test_a_probe_that_is_late(stand, upstreams, targets):  # noqa: F811
    """A server that is late for one probe is asked after others; for two in a row it is dead."""
    known = stand.gateway.servers.get(targets[0])
    stand.follow(application(targets[0]))
    probes = stand.gateway.prober
    late = TimeoutError()
    probes._note_miss(targets[0].url, known, late)
    assert (known.is_suspect, known.is_alive) == (True, True)
    assert (await stand.ask())[0] == 200
    await eventually(lambda: not known.is_suspect)
    for _ in range(2):
        probes._note_miss(targets[0].url, known, late)
    assert not known.is_alive
    await eventually(lambda: known.is_alive)


async def test_a_change_of_the_fleet_is_looked_at_now(tmp_path, upstreams, targets, monkeypatch):  # noqa: F811
    """It may be that a model was loaded: who loads it and then asks must not wait for a look."""
    monkeypatch.setattr(probes, "RETRY_SECONDS", 3600.0)
    upstreams[0].ready.clear()
    async with stand_on(tmp_path, probe=3600.0) as patient:
        patient.follow(application(targets[0]))
        await eventually(lambda: patient.gateway.servers.get(targets[0]).unready)
        upstreams[0].ready.add("")
        patient.follow(application(targets[0]))
        await eventually(lambda: not patient.gateway.servers.get(targets[0]).unready)
        assert (await patient.ask())[0] == 200
