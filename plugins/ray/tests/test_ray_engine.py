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

import psutil
import pytest
from served_on_ray import (
    POINTS,
    cluster_fixture,  # noqa: F401 - fixtures
)

from api_answers import until
from mataserver import MataError
from mataserver.config.needs import Needs
from mataserver.engines.replicas import Replicas
from mataserver.engines.worker_errors import NodeDied, WorkerDied
from mataserver.errors import OutOfMemory, Unavailable
from mataserver.testing.serving import compose
from mataserver_ray import heartbeat, node_runner
from mataserver_ray.engine import RayEngine
from stand_in_cluster import Daemon, broker
from test_engine_contract import EXITS, PLACE, SOON, answers, assignment, job, labels, started

pytestmark = pytest.mark.long

__all__ = ["assignment"]


def place_of(worker):
    """Return the name of the node that a worker is on."""
    return worker.node.name


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


@pytest.mark.parametrize("moment", ["start", "listening"])
async def test_a_node_is_killed_before_its_worker_loads(cluster, assignment, moment):
    """Nothing of the model ran there: it is loaded on another node, without an error."""
    await cluster.add("large", cpu=8, environment={"STAND_IN_HALTS": moment})
    engine = cluster.engine(silence=600.0)
    loading = asyncio.create_task(engine.start(assignment, PLACE))
    await until(lambda: cluster.nodes["large"].is_halted, SOON)
    await cluster.kill("large")
    async with asyncio.timeout(SOON):
        worker = await loading
    assert place_of(worker) in {"one", "two"}
    assert labels(await answers(worker, job())) == ["16"]
    await worker.close()


async def test_a_program_whose_node_is_killed_as_it_starts(cluster):
    """It runs on another node, as a model does."""
    await cluster.add("large", cpu=8, environment={"STAND_IN_HALTS": "start"})
    engine = cluster.engine(silence=600.0)

    async def said():
        async with engine.run_process(["echo", "hi"], needs=Needs(cpu=1)) as child:
            return await child.output.readline()

    running = asyncio.create_task(said())
    await until(lambda: cluster.nodes["large"].is_halted, SOON)
    await cluster.kill("large")
    async with asyncio.timeout(SOON):
        assert await running == b"hi\n"


async def test_a_node_falls_silent_before_it_has_a_worker():
    """What is sent there is given up once the node is lost; an error of another cause stays."""
    daemon, lost = Daemon(), []
    await daemon.open()
    monitor = heartbeat.NodeMonitor("127.0.0.1", daemon.port, 0.4, lambda: lost.append("node"))
    with pytest.raises(Unavailable, match="too large"):
        async with monitor.guard():
            raise Unavailable("too large")
    daemon.silent = True
    with pytest.raises(NodeDied):
        async with asyncio.timeout(SOON), monitor.guard():
            await asyncio.Event().wait()
    assert (lost, monitor.is_idle) == (["node"], True)
    await daemon.close()


async def test_a_head_is_lost_while_a_worker_waits_for_room(cluster, assignment):
    """It is 503 then, and not 507 after the rest of ``room``: no node is to blame."""
    engine = cluster.engine(room=600.0, silence=1.0)
    wanted = dataclasses.replace(assignment, needs=Needs(cpu=64))
    waiting = asyncio.create_task(engine.start(wanted, PLACE))
    await until(lambda: engine.cluster._pending.placing, SOON)
    await cluster.kill_head()
    with pytest.raises(Unavailable, match="out of reach"):
        async with asyncio.timeout(SOON):
            await waiting


async def test_a_load_is_cancelled_as_it_is_placed(cluster, assignment):
    """Nothing stays on the nodes, however early it was cancelled."""
    engine = cluster.engine()
    for step in range(8):
        loading = asyncio.create_task(engine.start(assignment, PLACE))
        while not engine.cluster._pending.placing:
            await asyncio.sleep(0)
        await asyncio.sleep(step * 0.0003)
        loading.cancel()
        await asyncio.wait([loading])
    whole = dataclasses.replace(assignment, needs=Needs(cpu=4))
    async with started(engine, whole) as first, started(engine, whole) as second:
        assert {place_of(first), place_of(second)} == {"one", "two"}


async def test_a_broker_that_fails_tells_so(cluster, assignment):
    """An error that nobody foresaw ends the load with a sentence; nobody waits for ever."""
    engine = cluster.engine()
    wanted = dataclasses.replace(assignment, needs=Needs(labels={"fault": "x"}))
    with pytest.raises(WorkerDied, match="ended as it was started"):
        async with asyncio.timeout(SOON):
            await engine.start(wanted, PLACE)
    async with started(engine, assignment) as worker:  # and it goes on
        assert labels(await answers(worker, job())) == ["16"]


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


def test_the_package_is_asked_for(tmp_path, monkeypatch):
    """Without the extra a configuration that wants the engine stops the start in one sentence."""
    monkeypatch.setitem(sys.modules, "ray", None)  # how Python notes that there is no such package
    with pytest.raises(MataError, match=r"pip install 'mataserver\[ray\]'"):
        compose(tmp_path, POINTS, engine="ray")
