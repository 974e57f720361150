"""Front-ends on a bad day: a directory that takes nothing, one that is killed, paths in a ring."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from api_answers import problem
from conftest import FAKES, register
from frontend_apart import SHARED, SMALL, apart, can_mount, started
from mataserver.app.maintenance import MaintenanceIntervals
from stream_peers import (
    PNG,
    closed_with,
    delete_session,
    eventually,
    infer,
    metric,
    open_session,
)
from test_confinement import descendants, gone
from test_frontends import GONE, front, frontends, sees
from test_frontends_held import POINTS

pytestmark = pytest.mark.long

mounts = pytest.mark.skipif(not can_mount(), reason="this system lets nobody mount anything")


@pytest.fixture
def shared(tmp_path):
    """A shared directory in which every fake model is registered."""
    register(tmp_path / "shared", {f"fake-{task}": task for task in FAKES})
    return tmp_path / "shared"


def waits(each, said):
    """Return what tells whether ``/ready`` is 503 for that reason; for none, whether it is 200."""

    async def check():
        async with each.http.get("/ready") as response:
            told = (await response.json())["waiting"] if response.status == 503 else {}
            return told == ({"shared_dir": said} if said else {})

    return check


async def serves(each):
    """Assert that a front-end answers requests, and makes, streams and ends sessions."""
    assert await infer(each.http) == 200
    session = await open_session(each.http)
    async with each.http.ws_connect(f"/v1/stream/{session}") as ws:
        await ws.send_bytes(PNG)
        assert (await ws.receive_json(timeout=20))["frame_id"] == 0
    assert await delete_session(each.http, session) == 204


# a directory that takes nothing


@mounts
async def test_a_directory_that_one_cannot_write(shared):
    """It says so, serves on, and follows what the others do; once it can write all is as before."""
    folder = shared.parent
    chosen = {"pace": MaintenanceIntervals()}
    async with (
        apart(folder / "one", shared, SHARED) as one,
        front(folder, "two", **chosen) as two,
    ):
        await eventually(lambda: sees(one, 2))
        await eventually(lambda: sees(two, 2))
        kept = await open_session(one.http)
        await one.remount("ro")
        await eventually(waits(one, "cannot be used: Read-only file system"))
        await serves(one)
        async with one.http.delete("/v1/models/fake-ocr") as response:
            said = await problem(response, 500)
        assert said == "could not write the model registry: Read-only file system"
        async with two.http.delete("/v1/models/fake-ocr") as response:
            assert response.status in {200, 204}
        async with one.http.get("/v1/models/fake-ocr") as response:
            assert response.status == 404
        async with front(folder, "three", **chosen) as three:
            await eventually(lambda: sees(one, 3))
            there = await open_session(three.http)
            async with one.http.get(f"/v1/sessions/{there}") as response:
                assert response.status == 200
        await eventually(lambda: sees(one, 2))
        await one.remount("rw")
        await eventually(waits(one, ""))

        async def is_found():  # once the other one has seen a sign of life again
            async with two.http.get(f"/v1/sessions/{kept}") as response:
                return response.status == 200

        await eventually(is_found)


@mounts
async def test_a_start_that_cannot_write(shared):
    """It is refused in one line, which names the directory and the reason."""
    (shared / "frontends").mkdir()
    script = SHARED.replace("&&", '&& mount -o remount,bind,ro "$0" &&', 1)
    process, url, said = await started(shared.parent / "one", shared, script)
    assert (url, await process.wait()) == ("", 1)
    assert said.strip().splitlines()[-1] == (
        f"error: shared_dir cannot be used: Read-only file system ({shared / 'frontends'})"
    )
    assert "Traceback" not in said


@mounts
async def test_a_directory_that_is_full(shared):
    """It says so, serves on, and leaves no file behind for each of its tries."""
    async with apart(shared.parent / "one", shared, SMALL) as one:
        await serves(one)
        before = await one.inside("ls", str(shared / "frontends"))
        filler = shared / "filler"
        await one.inside("dd", "if=/dev/zero", f"of={filler}", "bs=4k", "status=none")
        await eventually(waits(one, "cannot be used: No space left on device"))
        await serves(one)
        async with one.http.delete("/v1/models/fake-ocr") as response:
            said = await problem(response, 507)
        assert said == "could not write the model registry: No space left on device"
        await asyncio.sleep(2.0)  # some more tries
        assert await one.inside("ls", str(shared / "frontends")) == before
        await one.inside("rm", str(filler))
        await eventually(waits(one, ""))
        async with one.http.delete("/v1/models/fake-ocr") as response:
            assert response.status in {200, 204}


# one that is killed


async def test_one_is_killed_and_another_takes_its_place(shared):
    """Its clients are told at once, nothing of it is left, and the next one has its models."""
    folder = shared.parent
    async with front(folder, "two", pace=MaintenanceIntervals()) as two:
        async with apart(folder / "one", shared, engine="process") as one:
            await eventually(lambda: sees(two, 2))
            [old] = [each["id"] for each in await frontends(two) if not each["here"]]
            lost, kept = await open_session(one.http), await open_session(two.http)
            assert await infer(one.http) == 200
            family = descendants(one.process.pid)
            assert len(family) >= 2
            async with two.http.ws_connect(f"/v1/stream/{lost}") as ws:
                await ws.send_bytes(PNG)
                assert (await ws.receive_json(timeout=20))["frame_id"] == 0
                one.process.send_signal(signal.SIGKILL)
                assert await closed_with(ws) == 1001
            async with two.http.get(f"/v1/sessions/{lost}") as response:
                assert await problem(response, 404) == GONE
            async with two.http.ws_connect(f"/v1/stream/{lost}") as ws:
                assert await closed_with(ws) == 4004
            async with two.http.get("/v1/sessions") as response:
                assert [each["session_id"] for each in await response.json()] == [kept]
            async with asyncio.timeout(20):
                while not all(map(gone, family)):
                    await asyncio.sleep(0.02)
            port = int(one.url.rpartition(":")[2])
        async with apart(folder / "one", shared, engine="process", port=port) as again:
            await eventually(lambda: _replaced(two, old))
            for each in (two, again):
                async with each.http.get(f"/v1/sessions/{lost}") as response:
                    await problem(response, 404)
                async with each.http.get(f"/v1/sessions/{kept}") as response:
                    assert response.status == 200
            session = await open_session(again.http)
            assert await infer(again.http) == 200
            async with two.http.get(f"/v1/sessions/{session}") as response:
                assert response.status == 200


async def _replaced(each, old):
    """Whether a front-end knows one other one that lives, and none with the id of before."""
    found = [other for other in await frontends(each) if not other["here"]]
    return [(other["alive"], other["id"] == old) for other in found] == [(True, False)]


# rings


async def relayed(each):
    """Return how many requests a front-end has sent on."""
    return await metric(each.http, "mataserver_relayed_total")


async def test_what_a_killed_one_had_only_begun_is_removed(shared):
    """A file that was not whole an hour ago goes when the next one comes; what is young stays."""
    folder = shared / "frontends"
    folder.mkdir()
    for name in ("old.tmp", "young.tmp", "ffff.json", "fffe.json", "fffd.json"):
        (folder / name).write_bytes(b"" if name != "fffd.json" else b"{}")
    for name in ("old.tmp", "ffff.json", "fffd.json"):
        os.utime(folder / name, (0, 0))
    async with front(shared.parent, "one"):
        left = {path.name for path in folder.iterdir()}
    assert {"young.tmp", "fffe.json", "fffd.json"} <= left
    assert not {"old.tmp", "ffff.json"} & left


async def test_what_each_takes_for_the_others_is_asked_for_once(shared):
    """A thing that is gone at both, when each was last told that the other has it: 404, no ring."""
    options = {
        "entry_points": POINTS,
        "pace": MaintenanceIntervals(reconcile=0.05, beat=600.0, silence=600.0),
    }
    async with (
        front(shared.parent, "one", **options) as one,
        front(shared.parent, "two", **options) as two,
    ):
        for name in ("ring", "another"):  # with the second one each sees what the other has
            for each in (one, two):
                async with each.http.post("/lab/shelf", params={"name": name}) as response:
                    assert response.status == 200
        for each in (one, two):
            each.served.service("shelf")._ctx.held.discard("ring")
            each.served.service("shelf")._kept.clear()
        async with asyncio.timeout(20), one.http.get("/lab/shelf/ring") as response:
            assert await problem(response, 404) == "No such thing: ring"
        assert (await relayed(one), await relayed(two)) == (1, 0)


async def test_an_address_that_leads_back(shared):
    """Where another's address is our own, as a balancer's may be, we refuse ourselves: 503."""
    async with front(shared.parent, "one") as one:
        back = one.served.url.replace("127.0.0.1", "localhost")
        async with front(shared.parent, "two", frontend_address=back) as two:
            await eventually(lambda: sees(one, 2))
            session = await open_session(two.http)
            async with asyncio.timeout(20), one.http.get(f"/v1/sessions/{session}") as response:
                await problem(response, 503)
            async with one.http.ws_connect(f"/v1/stream/{session}") as ws:
                assert await closed_with(ws) == 1013
            async with asyncio.timeout(20), one.http.get("/v1/sessions") as response:
                await problem(response, 503)
            assert await relayed(one) == 2  # the request and the socket, each once
