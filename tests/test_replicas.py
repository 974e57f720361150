"""Several workers of one model: where work goes, and what a replica's death costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import aiohttp
import pytest

from api_answers import until
from conftest import picture
from mataserver import testing
from mataserver.engines.replicas import FIRST_BACKOFF, Replicas
from mataserver.engines.work import Job
from mataserver.engines.worker_errors import Death, WorkerDied
from mataserver.errors import MataError
from own_processes import workers
from replica_rig import Rig, StandIn


@pytest.fixture
async def rig():
    made = Rig()
    await made.replicas.load()
    yield made
    await made.replicas.close()


async def test_batches_go_where_there_is_least_to_do(rig):
    """Every replica gets a batch before one gets two; one that has answered is next."""
    for _ in range(3):
        rig.send()
    assert rig.load() == [1, 1, 1]
    rig.workers[1].answer()
    rig.send()
    assert rig.load() == [1, 1, 1]
    assert rig.replicas.width == 3


async def test_frames_of_a_session_go_where_its_state_is():
    """A stateful model's session stays with one replica; sessions spread over all of them."""
    rig = Rig(stateful=True)
    await rig.replicas.load()
    for _ in range(2):
        for session in ("a", "b", "c"):
            rig.send(session=session)
    homes = {
        session: [
            i for i in range(3) for jobs, _ in rig.workers[i].asked if jobs[0].session == session
        ]
        for session in ("a", "b", "c")
    }
    assert sorted(map(tuple, homes.values())) == [(0, 0), (1, 1), (2, 2)]
    await rig.replicas.close_session("b")
    assert rig.workers[homes["b"][0]].closed_sessions == ["b"]


@pytest.mark.parametrize(("stateful", "replicas"), [(False, 2), (True, 1)])
async def test_only_state_binds_the_texts_of_a_session(stateful, replicas):
    """Two texts of one session are written at once by two replicas, unless it has state in one."""
    rig = Rig(stateful=stateful)
    await rig.replicas.load()
    writers = set()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            text = rig.replicas.generate(Job(b"x", b"", session="a"))
            await stack.enter_async_context(contextlib.aclosing(text))
            writers.add(await anext(text))
    assert len(writers) == replicas
    await rig.replicas.close()


async def test_a_death_costs_what_that_replica_held_and_it_is_replaced(rig):
    """The others go on; the dead one is started anew; nobody above is told."""
    told = []
    rig.replicas.on_death(told.append)
    answers = [rig.send() for _ in range(3)]
    rig.workers[0].die()
    assert isinstance(answers[0][0], WorkerDied)
    for index in (1, 2):
        rig.workers[index].answer()
    assert [type(each[0]) for each in answers[1:]] == [list, list]
    assert rig.replicas.is_alive
    async with asyncio.timeout(10):
        while rig.starts != [0, 1, 2, 0]:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0)
    rig.send()
    assert rig.load()[0] == 1
    assert told == []


@pytest.mark.parametrize("kind", ["batch", "text", "none"])
async def test_an_answer_ends_the_back_off_of_a_replica(rig, monkeypatch, kind):
    """One that has answered is replaced as soon as the first time; else each time later."""
    pauses, sleep = [], asyncio.sleep

    async def pause(seconds):
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("mataserver.engines.replicas.asyncio.sleep", pause)
    for _ in range(3):
        if kind == "batch":
            rig.send()
            rig.workers[0].answer()
        elif kind == "text":
            assert len([item async for item in rig.replicas.generate(Job(b"x", b""))]) == 2
        rig.workers[0].die()
        async with asyncio.timeout(10):
            while rig.replicas.width < 3:
                await sleep(0)
    factors = [1, 2, 4] if kind == "none" else [1, 1, 1]
    assert pauses == [factor * FIRST_BACKOFF for factor in factors]


async def test_the_last_death_is_told_once(rig):
    """Without any replica left the whole counts as dead, and takes nothing more."""
    told = []
    rig.replicas.on_death(told.append)
    for index in range(3):
        rig.workers[index].die()
    assert told == [Death("it was shot")]
    assert not rig.replicas.is_alive
    with pytest.raises(WorkerDied):
        rig.send()


async def test_a_replica_that_cannot_start_fails_the_load():
    """Half of the replicas is not what was asked for: the started ones are closed."""
    rig = Rig()
    started = rig.start

    async def start(index):
        if index == 2:
            raise MataError("no memory")
        return await started(index)

    replicas = Replicas(start, 3)
    with pytest.raises(MataError, match="no memory"):
        await replicas.load()
    assert all(worker.closed for worker in rig.workers.values())


async def test_calls_of_services_go_to_one_replica(rig):
    """What a service keeps in a model is found again: its calls always reach the first replica."""
    assert {(await rig.replicas.call("m", (), {}))[0] for _ in range(4)} == {100}
    assert await rig.replicas.memory() == 30
    assert rig.replicas.pids == (100, 101, 102)


async def test_a_server_with_replicas_survives_the_kill_of_one(data_dir):
    """Two real workers serve one model; killing one costs no more than its own requests."""
    models = [{"model": "fake-detect", "replicas": 2}]
    headers = {"Content-Type": "image/png"}
    async with (
        testing.serving(data_dir, engine="process", models=models) as served,
        aiohttp.ClientSession(served.url, headers={**served.headers, **headers}) as http,
    ):

        async def ask():
            url = "/v1/infer?model=fake-detect"
            async with http.post(url, data=picture()) as response:
                return response.status

        assert await ask() == 200
        first, _ = workers()
        os.kill(first.pid, signal.SIGKILL)
        await asyncio.to_thread(first.wait, 20)
        assert [await ask() for _ in range(8)].count(200) >= 7
        await until(lambda: len(workers()) == 2)
        assert await ask() == 200


async def test_a_replica_that_dies_while_another_loads_fails_the_load():
    """The whole is not born dead: the load fails, and what was loaded is closed."""
    gate = asyncio.Event()
    made = {}

    async def start(index):
        if index == 1:
            await gate.wait()
        made[index] = StandIn(index, stateful=False)
        return made[index]

    replicas = Replicas(start, 2)
    load = asyncio.create_task(replicas.load())
    await asyncio.sleep(0.01)
    made[0].die()
    gate.set()
    with pytest.raises(WorkerDied):
        await load
    assert made[1].closed


async def test_a_stream_that_outlives_its_replica_leaves_no_debt(rig):
    """What is closed after a replacement is not taken from the new replica's count."""
    items = rig.replicas.stream("m", (), {})
    await anext(items)
    rig.workers[0].die()
    async with asyncio.timeout(10):
        while rig.starts != [0, 1, 2, 0]:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0)
    await items.aclose()
    for _ in range(3):
        rig.send()
    assert rig.load() == [1, 1, 1]


async def test_a_load_is_cancelled_while_it_closes_what_it_had_started():
    """Every worker is closed all the same."""
    closing, gate, started = asyncio.Event(), asyncio.Event(), []

    class Slow(StandIn):
        async def close(self):
            closing.set()
            await gate.wait()
            await super().close()

    async def start(index):
        if index:
            await asyncio.Event().wait()
        started.append(Slow(index, stateful=False))
        return started[0]

    loading = asyncio.create_task(Replicas(start, 2).load())
    await until(lambda: started)
    loading.cancel()
    await closing.wait()
    loading.cancel()
    await asyncio.wait([loading])
    gate.set()
    await until(lambda: started[0].closed)
