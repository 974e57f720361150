"""The engine of a cluster: what is told when there is no room, no cluster, or no node any more.

The cluster is a stand-in of processes on this machine; the broker, the seats and the wire are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import sys
import threading
import time

import aiohttp
import psutil
import pytest

from api_answers import until
from conftest import picture, register
from mataserver import MataError, testing
from mataserver.config.needs import Needs
from mataserver.engines.replicas import Replicas
from mataserver.engines.worker_errors import NodeDied, WorkerDied
from mataserver.errors import OutOfMemory, Unavailable
from mataserver.testing.serving import compose
from mataserver_ray import heartbeat, node_runner
from mataserver_ray.engine import RayEngine
from stand_in_cluster import Daemon, StandInCluster, broker
from test_engine_contract import EXITS, PLACE, SOON, answers, assignment, job, labels, started

__all__ = ["assignment"]

POINTS = [testing.FAKE, *testing.installed("ray")]


@pytest.fixture
async def cluster(tmp_path):
    """Two nodes with four processors each."""
    made = StandInCluster(tmp_path / "cluster")
    await made.open("one", "two")
    yield made
    await made.close()


def place_of(worker):
    """Return the name of the node that a worker is on."""
    return worker.node.name


# placement


async def test_no_room_is_told_in_a_sentence(cluster, assignment):
    """What no node has is 507 after ``room`` seconds, and names what was asked for."""
    engine = cluster.engine(room=0.3)
    needs = Needs(cpu=64, gpu=2, memory_mb=100, labels={"zone": "a"})
    with pytest.raises(OutOfMemory) as caught:
        await engine.start(dataclasses.replace(assignment, needs=needs), PLACE)
    assert caught.value.detail == (
        "No node of the Ray cluster has room for 64 CPU, 2 GPU, 100 MB of memory, the label zone=a"
    )
    await cluster.add("three", cpu=64, zone="a")
    needs = Needs(cpu=64, labels={"zone": "a"})
    patient = cluster.engine()
    async with started(patient, dataclasses.replace(assignment, needs=needs)) as worker:
        assert place_of(worker) == "three"
        assert worker.pids == ()
        assert await worker.memory() > 1_000_000


# the wire


def test_a_stranger_is_not_let_in():
    """Who says something else is turned away, who says nothing holds up nobody."""
    secret = os.urandom(node_runner.SECRET_BYTES)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        got = []
        door = threading.Thread(
            target=lambda: got.append(node_runner.Handshake(server, secret).accept())
        )
        door.start()
        silent = [socket.create_connection(address) for _ in range(5)]
        with socket.create_connection(address) as wrong:
            wrong.sendall(secret[:-1] + bytes([secret[-1] ^ 1]) + b"more")
            with contextlib.suppress(ConnectionResetError):
                assert wrong.recv(1) == b""
        with socket.create_connection(address) as right:
            right.sendall(secret[:7])
            time.sleep(0.05)
            right.sendall(secret[7:] + b"first")
            door.join(SOON)
            assert got[0].recv(5) == b"first"
            got[0].close()
        for each in silent:
            each.close()


def test_a_seat_listens_on_its_nodes_address_alone():
    """It is bound to the address that it is told: the same port is free on every other one."""
    for address, other in (("127.0.0.2", "127.0.0.1"), ("::1", "127.0.0.1")):
        with node_runner.listen_on(address) as server:
            host, port = server.getsockname()[:2]
            assert host == address
            socket.create_connection((host, port), 1).close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((other, port), 1)


# signs of life


async def test_what_a_look_finds():
    """A daemon that greets lives; one that only accepts is silent; one that is gone refuses."""
    daemon = Daemon()
    await daemon.open()
    assert await heartbeat.probe("127.0.0.1", daemon.port, SOON) is heartbeat.ProbeResult.ALIVE
    daemon.silent = True
    assert await heartbeat.probe("127.0.0.1", daemon.port, 0.2) is heartbeat.ProbeResult.SILENT
    await daemon.close()
    assert await heartbeat.probe("127.0.0.1", daemon.port, SOON) is heartbeat.ProbeResult.REFUSED


async def test_a_killed_node(cluster, assignment):
    """Its job is told at once, unblamed; the next worker is on the other node."""
    engine = cluster.engine(silence=600.0)  # what would be told by silence is not told here
    async with started(engine, assignment) as worker:
        deaths, lost = [], place_of(worker)
        worker.on_death(deaths.append)
        (assignment.context.data_dir / "gate").unlink()
        asked = asyncio.create_task(answers(worker, job()))
        await asyncio.sleep(0)  # it is with the worker then
        await cluster.nodes[lost].kill()  # and the cluster still believes in it
        with pytest.raises(NodeDied) as caught:
            async with asyncio.timeout(SOON):
                await asked
        assert (caught.value.status, caught.value.retry_after) == (503, 1)
        assert [death.is_model_fault for death in deaths] == [False]
    (assignment.context.data_dir / "gate").touch()
    async with started(engine, assignment) as worker:
        assert place_of(worker) != lost


async def test_a_silent_node(cluster, assignment):
    """It is suspect soon, lost after ``silence``; one that speaks again in time is neither."""
    engine = cluster.engine(silence=2.0)
    async with started(engine, assignment) as worker:
        node = cluster.nodes[place_of(worker)]
        node.stop()
        await until(lambda: worker.is_suspect)
        node.silent = False
        node.signal(signal.SIGCONT)
        await until(lambda: not worker.is_suspect)
        assert labels(await answers(worker, job())) == ["16"]
        node.stop()
        begun = time.monotonic()
        with pytest.raises(NodeDied):
            await answers(worker, job())
        assert 0.8 < time.monotonic() - begun < SOON
        assert not worker.is_alive


async def test_a_worker_that_died_alone(cluster, assignment):
    """Its node lives: the model is blamed, and what killed it is not given to another one."""
    engine = cluster.engine()
    async with started(engine, assignment) as worker:
        deaths = []
        worker.on_death(deaths.append)
        with pytest.raises(WorkerDied) as caught:
            await answers(worker, job(EXITS))
        assert not isinstance(caught.value, NodeDied)
        assert [death.is_model_fault for death in deaths] == [True]


async def test_replicas_move_to_the_node_that_is_left(cluster, assignment):
    """One of two nodes ends under load: what it held fails, and soon there are two replicas."""
    engine = cluster.engine()
    replicas = Replicas(lambda _: engine.start(assignment, PLACE), 2)
    await replicas.load()
    assert {place_of(worker) for worker in engine.workers} == {"one", "two"}
    await cluster.kill("one")
    failed = 0
    for _ in range(20):
        try:
            assert labels(await answers(replicas, job())) == ["16"]
        except NodeDied:
            failed += 1
    assert failed <= 1
    await until(lambda: [place_of(w) for w in engine.workers] == ["two", "two"], SOON)
    await replicas.close()


# the broker and the head


async def test_no_cluster_is_told_at_once(tmp_path, assignment):
    """Without one it is 503, and after the first try without waiting for the next."""
    engine = RayEngine(str(tmp_path / "nothing"), broker=broker)
    with pytest.raises(Unavailable, match="out of reach"):
        await engine.start(assignment, PLACE)
    tries = engine.cluster.epoch
    with pytest.raises(Unavailable, match="out of reach"):
        await engine.start(assignment, PLACE)
    assert engine.cluster.epoch == tries
    assert engine.waiting == {"ray": "The Ray cluster is out of reach"}
    await engine.close()


def brokers():
    """Return the broker's process."""
    return [p for p in psutil.Process().children() if "stand_in_cluster:broker" in p.cmdline()]


async def test_a_killed_broker_is_replaced(cluster, assignment):
    """Its workers end with it, unblamed; the next load has another broker to ask."""
    engine = cluster.engine()
    async with started(engine, assignment) as worker:
        deaths = []
        worker.on_death(deaths.append)
        (old,) = brokers()
        old.kill()
        await until(lambda: deaths, SOON)
        assert [death.is_model_fault for death in deaths] == [False]
    async with started(engine, assignment) as worker:
        assert labels(await answers(worker, job())) == ["16"]
    (new,) = brokers()
    assert new.pid != old.pid


async def test_a_broker_that_ends_as_it_is_asked(cluster, assignment):
    """Nobody waits for the answer of one that is gone: 503, or what the next one says."""
    engine = cluster.engine()
    async with started(engine, assignment):
        pass
    (old,) = brokers()
    epoch = engine.cluster.epoch
    cluster.head.gate.clear()
    asked = asyncio.create_task(engine.start(assignment, PLACE))
    await until(lambda: cluster.head.waiting, SOON)
    old.kill()
    await until(lambda: engine.cluster.epoch > epoch, SOON)
    cluster.head.gate.set()
    with contextlib.suppress(Unavailable):
        async with asyncio.timeout(SOON):
            await (await asked).close()


@contextlib.asynccontextmanager
async def serving(cluster, tmp_path, **settings):
    """Run a server with one model on the cluster and one here."""
    register(tmp_path, {f"fake-{task}": task for task in ("detect", "ocr", "track")})
    (tmp_path / "mataserver.yaml").write_text(
        "models: [{model: fake-detect, engine: ray}, {model: fake-track, engine: ray}]"
    )
    engines = {"ray": cluster.engine(**settings)}
    async with (
        testing.serving(
            tmp_path, entry_points=POINTS, engine="thread", engines=engines, file=None
        ) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        yield http


async def ask(http, model="fake-detect", **params):
    """POST a picture raw; return status and decoded body."""
    headers = {"Content-Type": "image/png"}
    query = {"model": model, **{name: str(value) for name, value in params.items()}}
    async with http.post("/v1/infer", params=query, data=picture(), headers=headers) as response:
        return response.status, await response.json()


def busy_node(cluster):
    """Return the name of the node that has a worker."""
    (busy,) = [name for name, node in cluster.nodes.items() if node.pids]
    return busy


async def is_in_state(http, model, state):
    """Whether a model is in a state: "active" while it has something to do."""
    async with http.get(f"/v1/models/{model}") as response:
        return (await response.json())["state"] == state


async def ready(http):
    """Return the answer to whether the server is ready."""
    async with http.get("/ready") as response:
        return response.status, await response.json()


async def test_a_server_outlives_the_head(cluster, tmp_path):
    """Without a head new models are 503 and /ready says why; what is here serves on."""
    async with serving(cluster, tmp_path, room=60.0) as http:
        assert (await ask(http))[0] == 200
        await cluster.kill_head()
        await until(lambda: _away(http), SOON)
        status, body = await ready(http)
        assert (status, body["waiting"]) == (503, {"ray": "The Ray cluster is out of reach"})
        assert (await ask(http, "fake-ocr"))[0] == 200
        assert (await ask(http))[0] == 200  # its worker is there, and nobody ended it
        async with asyncio.timeout(SOON):  # and not the minute that a node may take to have room
            refused = await ask(http, "fake-track")
        assert refused == (503, {"detail": "The Ray cluster is out of reach"})
        for node in cluster.nodes.values():
            node.signal(signal.SIGKILL)  # as Ray does after a minute
        await until(lambda: _refused(http), SOON)
        await cluster.start_head()
        await until(lambda: _served(http), SOON)
        assert (await ready(http))[0] == 200


async def _away(http):
    return (await ready(http))[0] == 503


async def _refused(http):
    return (await ask(http))[0] == 503


async def _served(http):
    return (await ask(http))[0] == 200


async def command(http, *arguments):
    """Run a command that asks the server; return its exit code and what it printed."""
    key = http.headers["Authorization"].removeprefix("Bearer ")
    asking = ("--url", str(http._base_url), "--api-key", key)
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mataserver", *arguments, *asking),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await running.communicate()
    return running.returncode, printed.decode()


async def gauges(http):
    """Return what /metrics tells of the cluster."""
    async with http.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    start = "mataserver_cluster_"
    return dict(line.removeprefix(start).split() for line in lines if line.startswith(start))


async def test_what_is_on_the_cluster_is_told(cluster, tmp_path):
    """GET /v1/cluster, /metrics, `cluster status`: nodes, room, workers; 503 without a head."""
    async with serving(cluster, tmp_path) as http:
        assert (await ask(http))[0] == 200
        async with http.get("/v1/cluster") as response:
            nodes = {node["name"]: node for node in await response.json()}
        busy = busy_node(cluster)
        (idle,) = set(cluster.nodes) - {busy}
        assert nodes[busy] == {
            "id": busy,
            "name": busy,
            "workers": ["fake-detect"],
            "total": {"CPU": 4.0},
            "free": {"CPU": 3.0},
        }
        assert (nodes[idle]["free"], nodes[idle]["workers"]) == ({"CPU": 4.0}, [])
        told = await gauges(http)
        assert (told[f'workers{{node="{busy}"}}'], told["away"], len(told)) == ("1.0", "0.0", 2)
        code, printed = await command(http, "cluster", "status")
        assert code == 0
        lines = {line.split()[0]: " ".join(line.split()[1:]) for line in printed.splitlines()}
        assert lines[busy] == "3 of 4 0 of 0 0 of 0 fake-detect"
        assert lines["fake-detect:"] == "0 waiting"
        await cluster.kill_head()
        await until(lambda: _away(http), SOON)
        async with http.get("/v1/cluster") as response:
            assert response.status == 503
        assert (await gauges(http))["away"] == "1.0"
        code, printed = await command(http, "cluster", "status")
        assert (code, printed) == (1, "error: The Ray cluster is out of reach\n")


async def test_without_the_engine_there_is_no_cluster(tmp_path):
    """A server without a model on a cluster has no such route, and the command says why."""
    async with (
        testing.serving(tmp_path, entry_points=POINTS) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        async with http.get("/v1/cluster") as response:
            assert response.status == 404
        code, printed = await command(http, "cluster", "status")
        assert (code, printed) == (1, "error: the server has no model with the engine ray\n")


async def test_requests_survive_a_node(cluster, tmp_path):
    """A request on a node that ends is answered by another one; a poisonous one is not repeated."""
    async with serving(cluster, tmp_path) as http:
        assert (await ask(http))[0] == 200
        busy = busy_node(cluster)
        cluster.nodes[busy].halt()
        asked = asyncio.create_task(ask(http))
        await until(lambda: is_in_state(http, "fake-detect", "active"), SOON)
        await cluster.kill(busy)
        status, body = await asked
        assert (status, len(body["detections"])) == (200, 1)
        status, body = await ask(http, behave="exit")
        assert (status, "worker died" in body["detail"]) == (500, True)
        (left,) = cluster.nodes.values()
        assert len(left.pids) == 1


async def test_the_end_of_a_server(cluster, tmp_path):
    """What was accepted is answered, and no process of ours is left."""
    async with contextlib.AsyncExitStack() as clients:
        async with serving(cluster, tmp_path) as served:
            http = aiohttp.ClientSession(str(served._base_url), headers=served.headers)
            await clients.enter_async_context(http)
            assert (await ask(http))[0] == 200
            slow = asyncio.create_task(ask(http, seconds=0.5))
            await until(lambda: is_in_state(http, "fake-detect", "active"), SOON)
            family = psutil.Process().children(recursive=True)
        assert (await slow)[0] == 200
    assert len(family) >= 2
    _, alive = psutil.wait_procs(family, timeout=SOON)
    assert not alive


@contextlib.asynccontextmanager
async def streaming(http):
    """Open a stream of the tracker, and have its first frame answered: its state is somewhere."""
    async with http.post("/v1/sessions", json={"model": "fake-track"}) as response:
        made = await response.json()
    async with http.ws_connect(f"/v1/stream/{made['session_id']}") as stream:
        first = await frame(stream)
        assert (first["detections"][0]["track_id"], "reset" in first) == (1, False)
        yield stream


async def frame(stream):
    """Send a frame; return its answer."""
    await stream.send_bytes(picture())
    return await stream.receive_json(timeout=SOON)


async def test_a_frame_under_way_fails_with_its_node(cluster, tmp_path):
    """Its state is lost: the frame is 503 and not repeated, and the next answer says ``reset``."""
    async with serving(cluster, tmp_path) as http, streaming(http) as stream:
        busy = busy_node(cluster)
        cluster.nodes[busy].halt()
        await stream.send_bytes(picture())
        await until(lambda: is_in_state(http, "fake-track", "active"), SOON)
        await cluster.kill(busy)
        lost = await stream.receive_json(timeout=SOON)
        assert "lost" in lost["detail"]
        again = await frame(stream)
        assert (again["detections"][0]["track_id"], again["reset"]) == (1, True)


async def test_a_frame_after_its_node_is_answered_anew(cluster, tmp_path):
    """It is no error: another node answers it with a new state, and says ``reset``, once."""
    async with serving(cluster, tmp_path) as http, streaming(http) as stream:
        await cluster.kill(busy_node(cluster))
        await until(lambda: is_in_state(http, "fake-track", "unloaded"), SOON)
        again = await frame(stream)
        assert (again["detections"][0]["track_id"], again["reset"]) == (1, True)
        after = await frame(stream)
        assert (after["detections"][0]["track_id"], "reset" in after) == (2, False)


def test_the_package_is_asked_for(tmp_path, monkeypatch):
    """Without the extra a configuration that wants the engine stops the start in one sentence."""
    monkeypatch.setitem(sys.modules, "ray", None)  # how Python notes that there is no such package
    with pytest.raises(MataError, match=r"pip install 'mataserver\[ray\]'"):
        compose(tmp_path, POINTS, engine="ray")
