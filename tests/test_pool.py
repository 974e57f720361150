"""The model pool: states, joined loads, failures and deaths, back-off, the end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno

import pytest

from mataserver.engines.work import LoadReport, Outcome
from mataserver.engines.worker_errors import WorkerDied
from mataserver.errors import MataError, Unavailable
from mataserver.serving.background import BACKGROUND
from pool_rig import JOB, Rig, until


@pytest.fixture
async def rig():
    made = Rig()
    yield made
    await made.pool.close()


async def test_states_of_a_life(rig):
    """unloaded, loading, ready, active, idle, unloaded: each is told as it is."""
    assert rig.state("a") == "unloaded"
    rig.gate.clear()
    load = asyncio.create_task(rig.touch("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert rig.state("a") == "loading"
    rig.gate.set()
    await load
    assert rig.state("a") == "ready"
    rig.workers["a"].gate.clear()
    job = asyncio.create_task(rig.pool.infer(rig.plan("a"), JOB))
    await asyncio.sleep(0.01)
    assert rig.state("a") == "active"
    rig.workers["a"].gate.set()
    await job
    assert rig.state("a") == "idle"
    assert await rig.pool.unload("a", "detect")
    status = rig.pool.status("a", "detect")
    assert (status.state, status.memory, status.loaded_at) == ("unloaded", None, None)
    assert status.last_used is not None


async def test_concurrent_loads_join(rig):
    """Ten requests for an unloaded model load it once."""
    await asyncio.gather(*(rig.touch("a") for _ in range(10)))
    assert rig.loads == ["a"]


async def test_a_client_that_goes_away_cancels_nobodys_load(rig):
    """A waiter that is cancelled does not stop the load that others wait for."""
    rig.gate.clear()
    first, second = (asyncio.create_task(rig.touch("a")) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    rig.gate.set()
    await second
    with contextlib.suppress(asyncio.CancelledError):
        await first
    assert rig.state("a") == "ready"
    assert rig.loads == ["a"]


async def test_loading_one_model_does_not_block_another(rig):
    """While one model loads, another one that is in memory answers."""
    await rig.touch("b")
    rig.gate.clear()
    load = asyncio.create_task(rig.touch("a"))
    await asyncio.sleep(0.01)
    outcome, _ = await rig.pool.infer(rig.plan("b"), JOB)
    assert outcome.failure is None
    rig.gate.set()
    await load


async def test_a_failed_load_is_told_and_can_be_tried_again(rig):
    """A load that fails raises its error, shows it beside the state, and does not stick."""
    rig.failure = MataError("no weights")
    with pytest.raises(MataError, match="no weights"):
        await rig.touch("a")
    assert rig.pool.status("a", "detect").error == "no weights"
    rig.failure = None
    await rig.touch("a")
    assert rig.pool.status("a", "detect").error is None


async def test_a_load_past_its_deadline_fails():
    """A load that takes longer than the limit is given up."""
    rig = Rig(load_timeout=0.05)
    rig.gate.clear()
    with pytest.raises(MataError, match="did not load within"):
        await rig.touch("a")
    assert rig.state("a") == "unloaded"


async def test_other_files_replace_the_worker(rig):
    """A model registered with other files is loaded anew by its next request."""
    await rig.touch("a")
    first = rig.workers["a"]
    plan = rig.plan("a")
    moved = dataclasses.replace(plan, spec=dataclasses.replace(plan.spec, path="elsewhere"))
    await rig.pool.infer(moved, JOB)
    assert first.closed
    assert rig.loads == ["a", "a"]


async def test_keep_alive_runs_although_nobody_waits_any_more():
    """A model whose only client left during the load, or during its inference, is unloaded too."""
    rig = Rig(keep_alive=0.02)
    rig.gate.clear()
    load = asyncio.create_task(rig.touch("a"))
    await asyncio.sleep(0.01)
    load.cancel()
    await asyncio.wait([load])
    rig.gate.set()
    await until(lambda: "a" in rig.workers and rig.workers["a"].closed)
    await rig.touch("b")
    rig.workers["b"].gate.clear()
    job = asyncio.create_task(rig.pool.infer(rig.plan("b"), JOB))
    await asyncio.sleep(0.01)
    job.cancel()
    await asyncio.sleep(0.05)
    assert rig.state("b") == "active"
    rig.workers["b"].gate.set()
    await until(lambda: rig.workers["b"].closed)


async def test_a_load_that_fails_in_a_way_of_its_own_is_told(rig, caplog):
    """A loader's bug is a clear error beside the state, not a model that loads for ever."""
    rig.failure = ZeroDivisionError("secret")
    with pytest.raises(MataError, match="could not be loaded"):
        await rig.touch("a")
    assert rig.pool.status("a", "detect").error == "The model could not be loaded"
    assert rig.state("a") == "unloaded"


@pytest.mark.parametrize(
    ("failure", "said"),
    [(OSError(errno.ENOSPC, "full"), "The disk is full"), (MemoryError(), "is out of memory")],
)
async def test_a_load_without_room_is_logged_with_its_cause(rig, caplog, failure, said):
    """The client is told what is scarce, and the log where it was missing."""
    rig.failure = failure
    with pytest.raises(MataError, match=said):
        await rig.touch("a")
    [told] = [record for record in caplog.records if record.exc_info]
    assert told.exc_info[1] is failure


async def test_a_death_under_a_request_is_answered_and_replaced(rig):
    """A worker that dies fails the job it held; the next job loads a fresh worker."""
    await rig.touch("a")
    rig.workers["a"].gate.clear()
    job = asyncio.create_task(rig.pool.infer(rig.plan("a"), JOB))
    await asyncio.sleep(0.01)
    rig.workers["a"].die()
    with pytest.raises(WorkerDied):
        await job
    assert "shot" in rig.pool.status("a", "detect").error
    await rig.pool.infer(rig.plan("a"), JOB)
    assert rig.loads == ["a", "a"]


async def test_jobs_that_only_waited_go_to_the_next_worker(rig):
    """Jobs still in the queue when a worker dies are run by its successor."""
    await rig.touch("a", max_batch=1)
    first = rig.workers["a"]
    first.gate.clear()
    jobs = [asyncio.create_task(rig.pool.infer(rig.plan("a", max_batch=1), JOB)) for _ in range(5)]
    await asyncio.sleep(0.01)
    first.die()
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    died = [outcome for outcome in outcomes if isinstance(outcome, WorkerDied)]
    assert len(died) == len(first.batches) == 2
    assert all(isinstance(outcome, tuple) for outcome in outcomes[2:])


async def test_what_cannot_be_noted_is_told_and_holds_nothing(rig, monkeypatch):
    """A fault in what is noted of a job that was begun leaves nobody waiting, and nothing held."""
    await rig.touch("a")
    plan, told = rig.pool._residency.slots["a", "detect"].plan, []

    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr("mataserver.serving.dispatch.Dispatch._record", fail)
    assert rig.pool.begin(plan, JOB, lambda *found: told.append(found)) is not None
    await until(lambda: told)
    assert isinstance(told[0][0], Outcome)
    assert rig.pool._residency.slots["a", "detect"].holders == 0
    assert not rig.pool._dispatch._background._foreground


async def test_deaths_in_a_row_back_off_and_a_success_forgives(rig):
    """From the third death in a row the next load waits; time passing or a success ends that."""
    for _ in range(3):
        await rig.touch("a")
        rig.workers["a"].die()
    with pytest.raises(Unavailable) as refused:
        await rig.touch("a")
    assert refused.value.retry_after >= 1
    rig.now += 5
    await rig.pool.infer(rig.plan("a"), JOB)
    rig.workers["a"].die()
    await rig.touch("a")
    assert rig.state("a") == "ready"


async def test_a_back_off_is_no_longer_than_a_minute(rig):
    """However often a worker has died, it is tried again each minute."""
    for _ in range(12):
        rig.now += 60
        await rig.touch("a")
        rig.workers["a"].die()
    with pytest.raises(Unavailable, match="keeps dying") as refused:
        await rig.touch("a")
    assert 30 < refused.value.retry_after <= 60


async def test_a_death_during_the_load_is_told_to_try_again(rig):
    """Another worker may load: 503, and from the third death in a row the next one waits."""
    rig.failure = WorkerDied("it was shot")
    waits = []
    for _ in range(3):
        with pytest.raises(Unavailable, match="its worker died") as refused:
            await rig.touch("a")
        waits.append(refused.value.retry_after)
        assert "worker died" in rig.pool.status("a", "detect").error
    assert waits == [1, 1, 2]
    rig.now -= 1
    with pytest.raises(Unavailable, match="keeps dying"):
        await rig.touch("a")
    rig.now, rig.failure = rig.now + 5, None
    await rig.pool.infer(rig.plan("a"), JOB)
    assert (rig.loads, rig.state("a")) == (["a"] * 4, "idle")


async def test_a_lasting_failure_is_tried_again_after_a_minute_or_with_other_settings(rig):
    """What nobody here sees change may have changed; another configuration is another load."""
    rig.failure = Unavailable("there is no device")
    rig.failure.lasting = True
    for _ in range(3):
        with pytest.raises(MataError, match="there is no device") as refused:
            await rig.touch("a")
        assert refused.value.status == 503
    assert rig.loads == ["a"]
    with pytest.raises(MataError, match="there is no device"):
        await rig.touch("a", device="cpu")
    assert rig.loads == ["a", "a"]
    rig.failure, rig.now = None, rig.now + 60
    await rig.touch("a", device="cpu")
    assert rig.state("a") == "ready"


async def test_a_clock_that_is_set_back_changes_no_back_off(rig):
    """``Retry-After`` is a second, whatever became of the date meanwhile."""
    for _ in range(3):
        await rig.touch("a")
        rig.workers["a"].die()
    rig.wall -= 3600
    with pytest.raises(Unavailable) as refused:
        await rig.touch("a")
    assert refused.value.retry_after <= 2
    rig.now += 5
    await rig.touch("a")
    assert rig.pool.status("a", "detect").loaded_at == rig.wall


async def test_unload_waits_for_the_active_inference(rig):
    """An unload lets the inference under way end first."""
    await rig.touch("a")
    worker = rig.workers["a"]
    worker.gate.clear()
    job = asyncio.create_task(rig.pool.infer(rig.plan("a"), JOB))
    await asyncio.sleep(0.01)
    unload = asyncio.create_task(rig.pool.unload("a", "detect"))
    await asyncio.sleep(0.01)
    assert not worker.closed
    worker.gate.set()
    await asyncio.gather(job, unload)
    assert worker.closed


async def test_close_gives_up_loads_and_closes_workers(rig):
    """Closing the pool ends loads under way with 503 and closes what is loaded."""
    await rig.touch("a")
    rig.gate.clear()
    load = asyncio.create_task(rig.touch("b"))
    await asyncio.sleep(0.01)
    await rig.pool.close()
    with pytest.raises(Unavailable):
        await load
    assert rig.workers["a"].closed


async def test_a_model_loaded_for_another_task_is_told_and_unloaded(rig):
    """A model in memory for tracking alone is not "unloaded", and a stop unloads it."""
    plan = rig.plan("a")
    plan = dataclasses.replace(plan, spec=dataclasses.replace(plan.spec, task="track"))
    async with rig.pool.hold(plan):
        assert rig.state("a") == "ready"
    assert await rig.pool.unload("a")
    assert rig.state("a") == "unloaded"
    assert not await rig.pool.unload("a")


@pytest.mark.parametrize("keeps", [True, False])
async def test_whether_a_model_keeps_state_is_known_once_it_is_loaded(rig, keeps):
    """Before that, and for a model that nobody knows, it may."""
    plan = rig.plan("a")
    assert rig.pool.stateful(plan)
    await rig.touch("a")
    rig.workers["a"].report = LoadReport(stateful=keeps, pid=1)
    assert rig.pool.stateful(plan) is keeps
    await rig.pool.unload("a")
    assert rig.pool.stateful(plan)


async def background(rig, name):
    """Infer as background work; return the model that it was."""
    BACKGROUND.set(True)
    await rig.pool.infer(rig.plan(name), JOB)
    return name


async def test_background_work_waits_for_requests_to_any_model_and_holds_none_meanwhile(rig):
    """While one model answers a request, background work for another one does not begin."""
    await rig.touch("a")
    rig.workers["a"].gate.clear()
    request = asyncio.create_task(rig.pool.infer(rig.plan("a"), JOB))
    waiting = asyncio.create_task(background(rig, "b"))
    await asyncio.sleep(0.01)
    assert rig.loads == ["a"]
    rig.workers["a"].gate.set()
    await request
    await waiting
    assert rig.loads == ["a", "b"]


async def test_requests_are_never_put_behind_background_work(rig):
    """Requests that come while background work runs wait for it no longer than that."""
    await rig.touch("a")
    worker = rig.workers["a"]
    worker.gate.clear()
    first = asyncio.create_task(background(rig, "a"))
    await asyncio.sleep(0)
    requests = [asyncio.create_task(rig.pool.infer(rig.plan("a"), JOB)) for _ in range(3)]
    later = asyncio.create_task(background(rig, "a"))
    await asyncio.sleep(0.01)
    worker.gate.set()
    await asyncio.gather(first, *requests)
    assert not later.done()
    later.cancel()
    with pytest.raises(asyncio.CancelledError):
        await later
