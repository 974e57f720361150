"""Models whose workers are on other machines: in the settings, the pool and the batcher."""

from __future__ import annotations

import asyncio

import pytest

from mataserver import config
from mataserver.config import ConfigError
from mataserver.config.needs import Needs
from mataserver.engines.replicas import Replicas
from mataserver.engines.work import Job, LoadReport, Outcome, Timing
from mataserver.engines.worker_errors import (
    NodeDied,
    NotDispatchedError,
    WorkerDied,
    WorkerReplacedError,
)
from mataserver.errors import OutOfMemory, Unavailable
from pool_rig import JOB, MB, Probe, Rig, StandIn
from test_batching import Recorder, batcher, submit

# settings


def load(tmp_path, yaml):
    """Return the settings of a file."""
    (tmp_path / "mataserver.yaml").write_text(yaml)
    return config.load(environ={}, directory=tmp_path)


def test_a_model_on_a_cluster(tmp_path):
    """What a model needs of its node, and how the cluster is found, are settings."""
    made = load(
        tmp_path,
        "ray_address: head:6379\n"
        "models: [{model: a, engine: ray, device: cuda, needs: {cpu: 0.5, labels: {zone: b}}}]",
    )
    (entry,) = made.models
    assert (made.ray_address, made.ray_room, made.ray_silence) == ("head:6379", 30.0, 6.0)
    assert entry.needs == Needs(cpu=0.5, labels={"zone": "b"})
    assert (entry.needs.gpus("cuda"), entry.needs.gpus("auto"), entry.needs.threads) == (1, 0, 1)
    assert (Needs(gpu=0.25).gpus("cuda"), Needs(cpu=3.7).threads) == (0.25, 3)


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("models: [{model: a, needs: {cpu: 2}}]", "models[0].needs: needs the engine ray"),
        (
            "engine: ray\nmodels: [{model: a, engine: thread, needs: {}}]",
            "models[0].needs: needs the engine ray",
        ),
        ("engine: ray\ndevice: cuda:1", "device: with the engine ray a GPU has no number"),
        (
            "models: [{model: a, engine: ray, device: 'cuda:0'}]",
            "models[0].device: with the engine ray a GPU has no number",
        ),
        (
            "device: cuda:1\nmodels: [{model: a, engine: ray}]",
            "models[0].device: with the engine ray a GPU has no number",
        ),
        ("models: [{model: a, engine: ray, max_ram_mb: 9}]", "models[0].max_ram_mb: the engine"),
        ("models: [{model: a, engine: ray, needs: {cpus: 1}}]", "models[0].needs"),
        ("models: [{model: a, engine: ray, needs: {cpu: -1}}]", "models[0].needs.cpu"),
        ("models: [{model: a, engine: ray, needs: {labels: {'a b': c}}}]", "models[0].needs"),
        ("models: [{model: a, engine: ray, needs: {gpu: 1.5}}]", "or whole ones"),
        ("ray_address: ray://head:10001", "ray_address"),
        ("ray_silence: 0.1", "ray_silence"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, yaml, said):
    """What a cluster has not, and what needs one, stops the start with the key's name."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, yaml)
    assert said in caught.value.detail


# the pool


@pytest.fixture
async def rig():
    """A pool of a machine with 1000 MB."""
    made = Rig()
    yield made
    await made.pool.close()


async def test_a_model_elsewhere_takes_no_memory_here(rig):
    """However large, it is loaded, pushes nobody out and is never pushed out itself."""
    rig.sizes["here"] = 900
    await rig.touch("here", estimate=900)
    await rig.touch("away", estimate=5000, engine="ray")
    assert rig.state("here") == rig.state("away") == "ready"
    with pytest.raises(OutOfMemory):
        await rig.touch("large", estimate=1200)
    await rig.touch("other", estimate=900)
    assert (rig.state("here"), rig.state("away")) == ("evicted", "ready")


async def test_its_memory_is_told_and_not_counted(rig):
    """What a worker says that it holds is shown, and the next load has all the room."""
    rig.sizes["away"] = 3000
    await rig.touch("away", engine="ray")
    assert rig.pool.status("away", "detect").memory == 3000 * MB
    await rig.touch("here", estimate=900)
    assert rig.state("here") == "ready"


async def test_the_servers_engine_counts_too():
    """With ``engine: ray`` for all, a model that says nothing is elsewhere."""
    rig = Rig(Probe(ram=10 * MB), engine="ray")
    await rig.touch("away", estimate=900)
    with pytest.raises(OutOfMemory):
        await rig.touch("here", estimate=900, engine="process")
    await rig.pool.close()


class Losing(StandIn):
    """A worker that is lost with its first jobs; the next one is not."""

    error: WorkerDied = NodeDied()

    async def _answer(self, jobs, answered):
        self.is_alive = False
        answered(self.error)
        self.die()


class LosingRig(Rig):
    """A pool whose first so many workers are lost."""

    def __init__(self, *errors):
        super().__init__()
        self._errors = list(errors)

    async def load(self, plan):
        worker = await super().load(plan)
        if self._errors:
            worker = self.workers[plan.spec.name] = Losing(100 * MB)
            worker.error = self._errors.pop(0)
        return worker


@pytest.mark.parametrize(
    ("errors", "session", "status"),
    [
        ([NodeDied()], None, None),
        ([NodeDied(), NodeDied()], None, 503),
        ([NodeDied()], "frames", 503),
        ([WorkerDied("died")], None, 500),
        ([NotDispatchedError()], None, None),
        ([NotDispatchedError()], "frames", None),
        ([NotDispatchedError(), NotDispatchedError()], None, 503),
    ],
)
async def test_a_job_whose_node_died_is_tried_once_more(errors, session, status):
    """Once, and not if its session's state is lost, nor if its worker died alone with it."""
    rig = LosingRig(*errors)
    job = Job(JOB.image, JOB.params, session=session)
    if status is None:
        outcome, _ = await rig.pool.infer(rig.plan("a"), job)
        assert outcome.failure is None
        assert rig.loads == ["a", "a"]
    else:
        with pytest.raises((WorkerDied, Unavailable)) as caught:
            await rig.pool.infer(rig.plan("a"), job)
        assert caught.value.status == status
    await rig.pool.close()


# a worker that may be lost


async def test_a_suspect_worker_is_given_nothing_new():
    """What waits stays until the worker gives a sign of life, and is then done in order."""
    worker = Recorder()
    made = batcher(worker, max_batch=1)
    worker.doubt(suspect=True)
    waiting = submit(made, "a", "b")
    await asyncio.sleep(0.01)
    assert worker.batches == []
    assert len(made) == 2
    worker.doubt(suspect=False)
    await asyncio.wait_for(asyncio.gather(*waiting), 2)
    assert worker.batches == [[b"a"], [b"b"]]


async def test_what_waits_for_a_suspect_worker_goes_to_the_next_one():
    """It is lost with nothing under way: whoever waits is to ask again, and is not kept."""
    worker = Recorder()
    made = batcher(worker, max_batch=1)
    worker.doubt(suspect=True)
    waiting = submit(made, "a", "b")
    await asyncio.sleep(0.01)
    worker.is_alive = False
    worker.doubt(suspect=False)
    found = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 2)
    assert [type(each) for each in found] == [WorkerReplacedError, WorkerReplacedError]
    await asyncio.wait_for(made.drain(), 2)


class Replica:
    """A replica that answers at once."""

    width = 1
    is_alive = True
    pids = ()

    def __init__(self):
        self.report = LoadReport(stateful=False, pid=1)
        self.doubt = None
        self.seen = 0

    def infer(self, jobs, answered):
        self.seen += len(jobs)
        answered([Outcome(job.image, Timing()) for job in jobs])
        return lambda: None

    def on_death(self, callback):
        pass

    def on_suspect(self, callback):
        self.doubt = lambda *, suspect: callback(suspect)

    async def close(self):
        pass


async def test_who_asks_late_is_told_that_all_replicas_are_suspect():
    """A queue that is made after the nodes fell silent sends nothing to them either."""
    worker = Replica()

    async def start(_index):
        return worker

    replicas = Replicas(start, 1)
    await replicas.load()
    worker.doubt(suspect=True)
    told = []
    replicas.on_suspect(told.append)
    worker.doubt(suspect=False)
    assert told == [True, False]
    await replicas.close()


async def test_the_other_replicas_take_over():
    """A replica that may be lost is left alone while another one is sound."""
    workers = [Replica(), Replica()]

    async def start(index):
        return workers[index]

    replicas = Replicas(start, 2)
    await replicas.load()
    told = []
    replicas.on_suspect(told.append)
    workers[0].doubt(suspect=True)
    for _ in range(4):
        replicas.infer([JOB], lambda _: None)
    assert [worker.seen for worker in workers] == [0, 4]
    assert told == []
    workers[1].doubt(suspect=True)
    workers[0].doubt(suspect=False)
    assert told == [True, False]
    await replicas.close()
