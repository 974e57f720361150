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
from mataserver.engines.work import Job, LoadReport, Outcome, Timing
from mataserver.engines.worker_errors import Death, WorkerDied
from mataserver.errors import MataError
from own_processes import workers


class StandIn:
    """A worker that answers when the test lets it."""

    width = 1

    def __init__(self, index, *, stateful):
        self.report = LoadReport(stateful=stateful, pid=100 + index)
        self.pids = (100 + index,)
        self.is_alive = True
        self.closed = False
        self.asked = []
        self.closed_sessions = []
        self._callbacks = []

    def infer(self, jobs, answered):
        self.asked.append((jobs, answered))
        return lambda: None

    def answer(self):
        jobs, answered = self.asked.pop(0)
        answered([Outcome(job.image, Timing()) for job in jobs])

    def on_death(self, callback):
        self._callbacks.append(callback)

    def on_suspect(self, callback):
        pass

    def die(self):
        self.is_alive = False
        for _, answered in self.asked:
            answered(WorkerDied("died"))
        for callback in self._callbacks:
            callback(Death("it was shot"))

    async def close_session(self, session):
        self.closed_sessions.append(session)

    async def call(self, method, args, kwargs):
        return self.report.pid, method, args, kwargs

    async def stream(self, method, args, kwargs):
        yield method
        yield method

    async def generate(self, job):
        yield str(self.report.pid)
        yield Outcome(job.image, Timing())

    async def memory(self):
        return 10

    async def close(self):
        self.closed = True


class Rig:
    """Three replicas of stand-ins."""

    def __init__(self, *, stateful=False):
        self.workers = {}
        self.starts = []
        self.failure = None
        self.gate = asyncio.Event()
        self.gate.set()
        self._stateful = stateful
        self.replicas = Replicas(self.start, 3)

    async def start(self, index):
        self.starts.append(index)
        if self.failure is not None:
            raise self.failure
        await self.gate.wait()
        self.workers[index] = StandIn(index, stateful=self._stateful)
        return self.workers[index]

    def send(self, *, session=None):
        """Send one job; return the list that its answer comes into."""
        answers = []
        self.replicas.infer([Job(b"x", b"", session=session)], answers.append)
        return answers

    def load(self):
        return [len(each.asked) for _, each in sorted(self.workers.items())]


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


async def test_one_more_takes_its_part(rig):
    """It is asked as soon as it is there; the width tells of it then, and not before."""
    for _ in range(3):
        rig.send()
    rig.gate.clear()
    growing = asyncio.create_task(rig.replicas.grow())
    await asyncio.sleep(0)
    assert (rig.replicas.count, rig.replicas.width) == (4, 3)
    rig.gate.set()
    await growing
    assert (rig.replicas.count, rig.replicas.width) == (4, 4)
    rig.send()
    assert rig.load() == [1, 1, 1, 1]


async def test_one_more_that_cannot_be_started_changes_nothing(rig):
    """The others serve on, and the next try takes the same place."""
    rig.failure = MataError("no memory")
    with pytest.raises(MataError, match="no memory"):
        await rig.replicas.grow()
    assert (rig.replicas.count, rig.replicas.is_alive) == (3, True)
    rig.failure = None
    await rig.replicas.grow()
    assert (rig.replicas.count, sorted(rig.workers)) == (4, [0, 1, 2, 3])


async def test_one_that_is_given_up_ends_what_it_has(rig):
    """It gets nothing new, answers what it was given, and is closed then."""
    answers = [rig.send() for _ in range(3)]
    shrinking = asyncio.create_task(rig.replicas.shrink())
    await asyncio.sleep(0)
    given_up = rig.workers[2]
    for _ in range(4):
        rig.send()
    assert rig.load() == [3, 3, 1]
    assert (rig.replicas.count, given_up.closed, shrinking.done()) == (2, False, False)
    given_up.answer()
    assert await shrinking
    assert given_up.closed
    assert isinstance(answers[2][0], list)
    assert rig.replicas.pids == (100, 101)
    await rig.replicas.grow()
    rig.send()
    assert rig.load() == [3, 3, 1]


async def test_one_that_keeps_a_session_is_never_given_up():
    """Nor is the first one, which keeps what services keep; a session that ends lets go of its."""
    rig = Rig(stateful=True)
    await rig.replicas.load()
    for session in ("a", "b", "c"):
        rig.send(session=session)
    assert not await rig.replicas.shrink()
    await rig.replicas.close_session("b")
    rig.workers[1].answer()
    assert await rig.replicas.shrink()
    assert [rig.workers[i].closed for i in range(3)] == [False, True, False]
    rig.send(session="d")
    assert rig.load()[1] == 0
    await rig.replicas.close_session("c")
    await rig.replicas.close_session("d")


async def test_one_that_dies_as_it_is_given_up_is_not_missed(rig):
    """What it held fails; nobody starts it anew, and the others are the whole."""
    answers = [rig.send() for _ in range(3)]
    shrinking = asyncio.create_task(rig.replicas.shrink())
    await asyncio.sleep(0)
    rig.workers[2].die()
    assert await shrinking
    assert isinstance(answers[2][0], WorkerDied)
    assert (rig.replicas.count, rig.replicas.is_alive, rig.starts) == (2, True, [0, 1, 2])


async def test_the_whole_closes_one_that_is_being_given_up(rig):
    """Who gives one up and is cancelled leaves none behind."""
    for _ in range(3):
        rig.send()
    shrinking = asyncio.create_task(rig.replicas.shrink())
    await asyncio.sleep(0)
    shrinking.cancel()
    await asyncio.wait([shrinking])
    assert not rig.workers[2].closed
    await rig.replicas.close()
    assert [rig.workers[i].closed for i in range(3)] == [True] * 3


async def test_the_whole_closes_one_that_hangs_as_it_is_given_up(rig):
    """Who waits for its close and is cancelled leaves none behind either."""
    begun = asyncio.Event()

    async def hang():
        begun.set()
        await asyncio.Event().wait()

    rig.workers[2].close = hang
    shrinking = asyncio.create_task(rig.replicas.shrink())
    await begun.wait()
    shrinking.cancel()
    await asyncio.wait([shrinking])
    del rig.workers[2].close
    await rig.replicas.close()
    assert [rig.workers[i].closed for i in range(3)] == [True] * 3


@pytest.mark.parametrize("given_up", [True, False])
async def test_one_that_cannot_be_closed_keeps_none_open(rig, given_up):
    """``sys.exit`` in an engine is its failure: the others are closed, and the loop runs on.

    The one may still be running: whoever ends the whole ends it too.
    """
    terminated = []

    async def leave():
        raise SystemExit(3)

    rig.workers[2].close = leave
    rig.workers[2].terminate = terminated.append
    if given_up:
        assert await rig.replicas.shrink()
        assert rig.replicas.pids == (100, 101)
    with pytest.raises(MataError, match="1 of the model's workers could not be closed"):
        await rig.replicas.close()
    assert [rig.workers[i].closed for i in range(3)] == [True, True, False]
    for other in (0, 1):
        rig.workers[other].terminate = lambda _error: None
    end = MataError("the end")
    rig.replicas.terminate(end)
    assert terminated == [end]
    del rig.workers[2].close
    await rig.replicas.close()
    assert rig.workers[2].closed
