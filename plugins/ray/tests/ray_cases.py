"""Models on a real Ray cluster of this machine: nodes die, fall silent, and the head goes.

``make test-ray`` runs it; ``RAY_KILLS`` is how many nodes are killed under load.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import time

import aiohttp
import psutil
import pytest
import pytest_asyncio

from api_answers import until
from conftest import FAKES, picture, register
from mataserver import testing
from mataserver.config.needs import Needs
from mataserver.errors import OutOfMemory, Unavailable
from mataserver_ray.cluster import BROKER
from mataserver_ray.engine import RayEngine
from ray_nodes import RayNodes
from test_engine_contract import PLACE, assignment

__all__ = ["assignment"]

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
]
SOON = 100.0
"""Seconds for what takes some on a machine with other work."""
KILLS = int(os.environ.get("RAY_KILLS", "1"))
SILENCE = 3.0
SEAT = "RayNodeRunner"


@pytest.fixture(scope="module")
def nodes():
    """A head and two nodes, each with room for every worker."""
    made = RayNodes()
    try:
        made.start_head()
        made.add("one")
        made.add("two")
        yield made
    finally:
        made.close()


@contextlib.asynccontextmanager
async def served(nodes, folder):
    """Yield a client of a server whose detector has two replicas on the cluster."""
    register(folder, {f"fake-{task}": task for task in FAKES})
    models = [
        {"model": "fake-detect", "engine": "ray", "replicas": 2},
        {"model": "fake-track", "engine": "ray", "needs": {"cpu": 0.5}},
        {
            "model": "fake-depth",
            "engine": "ray",
            "replicas": {"max": 3, "target": 2},
            "needs": {"cpu": 0.5},
        },
        {"model": "fake-vlm", "engine": "ray", "needs": {"cpu": 0.5}},
    ]
    engine = RayEngine(nodes.address, room=SOON, silence=SILENCE)
    points = [testing.FAKE, *testing.installed("ray")]
    given = {
        "entry_points": points,
        "models": models,
        "engines": {"ray": engine},
        "engine": "thread",
    }
    async with (
        testing.serving(folder, **given) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as client,
    ):
        yield client, engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(nodes, tmp_path_factory):
    """The client and the engine."""
    async with served(nodes, tmp_path_factory.mktemp("ray") / "data") as (http, engine):
        await until(lambda: _has_room(engine), SOON)
        yield http, engine


async def ask(http, model="fake-detect", **params):
    """Return the status and the answer of an inference."""
    query = {"model": model, **{name: str(value) for name, value in params.items()}}
    headers = {"Content-Type": "image/png"}
    async with http.post("/v1/infer", params=query, data=picture(), headers=headers) as response:
        return response.status, await response.json()


def detectors(engine):
    """Return the nodes that the detector's replicas are on."""
    return [w.node.id for w in engine.workers if w.is_alive and w._name == "fake-detect"]


def workers_of(engine, model):
    """Return how many workers a model has."""
    return sum(worker.is_alive and worker._name == model for worker in engine.workers)


async def whole(http, engine, nodes=2):
    """Wait until both replicas of the detector are there, on so many nodes."""
    assert (await ask(http))[0] == 200
    await until(lambda: len(set(detectors(engine))) == nodes and len(detectors(engine)) == 2, SOON)


class Load:
    """Clients that ask without a pause until the context ends, and what they were told."""

    def __init__(self, http, clients=4, model="fake-detect", **params):
        self._http = http
        self._asked = {"model": model, **params}
        self._clients = clients
        self._over = False
        self.statuses = []

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *exc):
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _ask(self):
        while not self._over:
            self.statuses.append((await ask(self._http, **self._asked))[0])

    async def goes_on(self, number=50):
        """Wait for so many more answers."""
        before = len(self.statuses)
        await until(lambda: len(self.statuses) >= before + number, SOON)


async def test_models_are_served(cluster):
    """As on this machine: the same answers, text that streams, and models of the other engines."""
    http, engine = cluster
    await whole(http, engine)
    status, body = await ask(http)
    assert (status, body["detections"][0]["label"]) == (200, "64x48")
    assert (await ask(http, "fake-ocr"))[0] == 200
    status, body = await ask(http, "fake-vlm")  # a stream, of which the whole is answered
    assert (status, len(body["text"]) > 0) == (200, True)
    headers = {"Accept": "text/event-stream", "Content-Type": "image/png"}
    async with http.post(
        "/v1/infer", params={"model": "fake-vlm"}, data=picture(), headers=headers
    ) as response:
        text = await response.text()
    assert (response.status, text.count("event: token") > 1, text.count("event: result")) == (
        200, True, 1,
    )  # fmt: skip
    async with http.get("/ready") as response:
        assert response.status == 200


async def test_sessions_keep_their_state(cluster):
    """Four streams at once: each frame is the next one of its own session."""
    http, _ = cluster

    async def stream(frames):
        async with http.post("/v1/sessions", json={"model": "fake-track"}) as response:
            session = (await response.json())["session_id"]
        found = []
        async with http.ws_connect(f"/v1/stream/{session}") as socket:
            for _ in range(frames):
                await socket.send_bytes(picture())
                answer = await socket.receive_json(timeout=SOON)
                found.append((answer["frame_id"], answer["detections"][0]["track_id"]))
        return found

    for found in await asyncio.gather(*(stream(10) for _ in range(4))):
        assert [frame for frame, _ in found] == list(range(10))
        assert [track for _, track in found] == list(range(1, 11))


async def test_what_no_node_has(nodes, assignment):
    """Ray would wait for it in silence, for ever: it is 507 after ``room`` seconds."""
    engine = RayEngine(nodes.address, room=2.0)
    try:
        wanted = dataclasses.replace(assignment, needs=Needs(cpu=64, labels={"zone": "a"}))
        with pytest.raises(OutOfMemory, match="has room for 64 CPU, the label zone=a"):
            await engine.start(wanted, PLACE)
    finally:
        await engine.close()


async def test_a_program_on_a_node(nodes):
    """As one of this machine, a signal and its status too; with its node it is gone."""
    engine = RayEngine(nodes.address, room=SOON, silence=SILENCE)
    await asyncio.to_thread(nodes.add, "jobs")
    there = Needs(cpu=1, labels={"name": "jobs"})
    try:
        script = ["sh", "-c", "read line; echo $line; sleep 600"]
        async with engine.run_process(script, needs=there) as child:
            await child.send("hello")
            assert await child.output.readline() == b'"hello"\n'
            child.signal(signal.SIGTERM)
            assert await child.wait() == -signal.SIGTERM
        async with engine.run_process(script, needs=there) as child:
            await child.send("again")
            assert await child.output.readline() == b'"again"\n'
            await asyncio.to_thread(nodes.kill, "jobs")
            async with asyncio.timeout(SOON):
                assert await child.wait() == -signal.SIGKILL
    finally:
        await engine.close()


async def test_replicas_follow_the_load(cluster):
    """Eight clients have three workers; nobody who asks meanwhile is refused."""
    http, engine = cluster
    async with Load(http, clients=8, model="fake-depth", seconds=0.02) as load:
        await until(lambda: workers_of(engine, "fake-depth") == 3, SOON)
        await load.goes_on()
    assert set(load.statuses) == {200}
    async with http.post("/v1/models/unload", json={"model": "fake-depth"}) as response:
        assert response.status == 200


@pytest.mark.timeout(300 * KILLS)
async def test_nodes_are_killed_under_load(cluster, nodes):
    """No request fails: what the node held goes to the other one, and soon there are two again."""
    http, engine = cluster
    for number in range(KILLS):
        await whole(http, engine)
        lost = min(nodes.nodes)
        async with Load(http) as load:
            await load.goes_on()
            await asyncio.to_thread(nodes.kill, lost)
            killed = time.monotonic()
            await until(lambda: len(detectors(engine)) == 2, SOON)  # on the node that is left
            took = time.monotonic() - killed
            await load.goes_on()
        counts = {status: load.statuses.count(status) for status in set(load.statuses)}
        print(f"kill {number + 1}: {counts}, full again after {took:.1f} s")  # noqa: T201 - figures for whoever reads
        assert set(counts) == {200}
        await asyncio.to_thread(nodes.add, f"{lost}x")
        async with http.post("/v1/models/unload", json={"model": "fake-detect"}) as response:
            assert response.status == 200
        await until(lambda: _has_room(engine), SOON)


async def _has_room(engine):
    """Whether there are two nodes with a processor free for a replica each."""
    try:
        free = [node.free.get("CPU", 0) for node in await engine.cluster.nodes()]
    except Unavailable:  # not joined yet
        return False
    return sum(each >= 1 for each in free) >= 2


async def test_a_node_falls_silent(cluster, nodes):
    """As when its power is cut: told by our own looks, and nobody waits for longer."""
    http, engine = cluster
    await whole(http, engine)
    [silent, _] = sorted(nodes.nodes)
    async with Load(http) as load:
        await load.goes_on()
        await asyncio.to_thread(nodes.stop, silent)
        stopped = time.monotonic()
        await until(lambda: len(set(detectors(engine))) == 1, SOON)
        print(f"a silent node was told after {time.monotonic() - stopped:.1f} s")  # noqa: T201 - figures for whoever reads
        await load.goes_on()
    assert set(load.statuses) == {200}
    await asyncio.to_thread(nodes.kill, silent)


async def test_the_head_ends(cluster, nodes):
    """Models that are here go on; those of the cluster are 503 until there is a head again."""
    http, engine = cluster
    assert (await ask(http))[0] == 200
    await asyncio.to_thread(nodes.head.kill)

    async def refused():
        status, body = await ask(http)
        return status == 503 and "out of reach" in body["detail"]

    await until(refused, SOON)
    assert (await ask(http, "fake-ocr"))[0] == 200
    async with http.get("/ready") as response:
        assert (response.status, "ray" in (await response.json())["waiting"]) == (503, True)
    for name in list(nodes.nodes):
        await asyncio.to_thread(nodes.kill, name)
    await asyncio.to_thread(nodes.start_head)
    await asyncio.to_thread(nodes.add, "new")

    async def answered():
        return (await ask(http))[0] == 200

    await until(answered, SOON)
    assert len(detectors(engine)) == 2


async def test_nothing_is_left_behind(nodes, tmp_path):
    """A server that ends under load answers what it accepted, and its workers and broker end."""
    seats, brokers = _running(SEAT), _running(BROKER)
    async with contextlib.AsyncExitStack() as clients:
        async with served(nodes, tmp_path) as (inner, _):
            http = aiohttp.ClientSession(str(inner._base_url), headers=inner.headers)
            await clients.enter_async_context(http)
            assert (await ask(http, "fake-track"))[0] == 200
            assert len(_running(SEAT) - seats) == 1
            assert len(_running(BROKER) - brokers) == 1
            asked = [asyncio.create_task(ask(http, "fake-track", seconds=0.2)) for _ in range(8)]
            await asyncio.sleep(0.3)  # all are accepted, and most of them wait
        answers = await asyncio.gather(*asked)
    assert [status for status, _ in answers] == [200] * 8
    await until(lambda: _running(SEAT) <= seats and _running(BROKER) <= brokers, SOON)


def _running(word):
    """Return the processes in whose command line there is a word."""
    return {
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(word in each for each in process.info["cmdline"] or ())
    }
