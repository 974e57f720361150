"""The model pool: what stays in memory, for how long, and who goes for whom."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from mataserver.engines.memory import Gpu
from mataserver.errors import MataError, OutOfMemory, Unavailable
from pool_rig import JOB, MB, Probe, Rig, until


async def test_keep_alive_unloads_an_idle_model():
    """A model that nobody uses is unloaded when its keep-alive is over."""
    rig = Rig(keep_alive=0.05)
    await rig.touch("a")
    worker = rig.workers["a"]
    assert rig.state("a") == "ready"
    for _ in range(100):
        await asyncio.sleep(0.01)
        if worker.closed:
            break
    assert worker.closed
    assert rig.state("a") == "unloaded"


async def test_a_held_model_outlives_its_keep_alive():
    """While a session holds a model, its keep-alive does not run."""
    rig = Rig(keep_alive=0.01)
    async with rig.pool.hold(rig.plan("a")):
        await asyncio.sleep(0.05)
        assert rig.state("a") == "ready"


async def test_least_recently_used_is_evicted():
    """When the ceiling is reached, the model used longest ago goes, and says so."""
    rig = Rig(Probe(300 * MB))
    for name in ("a", "b", "c"):
        await rig.touch(name)
    await rig.pool.infer(rig.plan("a"), JOB)
    rig.now += 1
    await rig.touch("d")
    assert [rig.state(name) for name in "abcd"] == ["idle", "evicted", "ready", "ready"]
    assert rig.workers["b"].closed


async def test_measured_memory_decides_over_the_estimate():
    """The second load of a model reckons with what the first one took."""
    rig = Rig(Probe(500 * MB), sizes={"big": 450})
    await rig.touch("big", estimate=10)
    await rig.pool.unload("big", "detect")
    await rig.touch("small")
    await rig.touch("big", estimate=10)
    assert rig.state("small") == "evicted"


@pytest.mark.parametrize("failure", [None, MataError("broken")])
async def test_a_failed_load_does_not_forget_what_was_measured(failure):
    """A load that found no room, or failed otherwise, was tried again with the estimate alone."""
    rig = Rig(Probe(500 * MB), sizes={"big": 450})
    await rig.touch("big", estimate=10)
    await rig.pool.unload("big", "detect")
    if failure:
        rig.failure = failure
        with pytest.raises(MataError, match="broken"):
            await rig.touch("big", estimate=10)
        rig.failure = None
    async with rig.pool.hold(rig.plan("small")):
        for _ in range(2):
            with pytest.raises(OutOfMemory):
                await rig.touch("big", estimate=10)
    await rig.touch("big", estimate=10)
    assert [rig.state(name) for name in ("big", "small")] == ["ready", "evicted"]


async def test_what_was_measured_is_forgotten_with_other_files_or_settings():
    """A model that was replaced by a smaller one, of that name, is not refused for the former."""
    rig = Rig(Probe(500 * MB), sizes={"a": 450})
    await rig.touch("a")
    await rig.pool.unload("a", "detect")
    rig.sizes["a"] = 50
    async with rig.pool.hold(rig.plan("b")):
        await rig.touch("a", estimate=60)
    assert rig.state("a") == "ready"


@pytest.mark.parametrize(("ram", "gpus"), [(1500, []), (9000, [Gpu(used=0, total=1000 * MB)])])
async def test_what_further_replicas_took_is_not_needed_to_load(ram, gpus):
    """A model that was scaled up and unloaded starts with as many workers as the first time."""
    probe = Probe(ram * MB, gpus)
    rig = Rig(probe, sizes={"a": 400, "b": 1000}, vram_fraction=1.0)
    probe.vram_of = lambda _pid: rig.workers["a"]._memory if gpus else 0
    await rig.touch("a", gpu=True)
    (slot,) = rig.pool._slots
    rig.workers["a"]._memory = 1200 * MB  # the autoscaler measures all replicas
    await rig.pool._budget.measure(slot, rig.workers["a"])
    await rig.pool.unload("a", "detect")
    async with rig.pool.hold(rig.plan("b")):
        await rig.touch("a", gpu=True)
    assert rig.state("a") == "ready"


async def test_what_a_failed_load_was_charged_is_no_measurement():
    """Other files of the model may need less than the estimate of those that did not load."""
    rig = Rig(Probe(500 * MB))
    rig.failure = MataError("broken")
    with pytest.raises(MataError, match="broken"):
        await rig.touch("a", estimate=450)
    rig.failure = None
    async with rig.pool.hold(rig.plan("b")):
        await rig.touch("a", estimate=100)
    assert rig.state("a") == "ready"


async def test_what_cannot_fit_is_refused():
    """A model larger than the ceiling gets 507, and nothing is evicted in vain."""
    rig = Rig(Probe(300 * MB))
    await rig.touch("a")
    with pytest.raises(OutOfMemory):
        await rig.touch("huge", estimate=400)
    assert rig.state("a") == "ready"


async def test_what_is_reserved_counts():
    """Memory of another process counts until its end, and idle models make room for it."""
    rig = Rig(Probe(300 * MB))
    for name in ("a", "b", "c"):
        await rig.touch(name)
    async with rig.pool.reserve(150 * MB):
        assert [rig.state(name) for name in "abc"] == ["evicted", "evicted", "ready"]
        with pytest.raises(OutOfMemory, match="Not enough memory now"):
            async with rig.pool.reserve(301 * MB):
                pass
        assert rig.state("c") == "ready"
        with pytest.raises(OutOfMemory):
            await rig.touch("d", estimate=200)
    await rig.touch("d", estimate=200)
    assert [rig.state(name) for name in "cd"] == ["ready", "ready"]


async def test_what_is_reserved_does_not_wait():
    """Where what is loaded may not go yet, there is no room now, and nothing stays counted."""
    rig = Rig(Probe(150 * MB), min_residence=10.0)
    await rig.touch("a")
    with pytest.raises(OutOfMemory, match="now"):
        async with rig.pool.reserve(100 * MB):
            pass
    assert rig.state("a") == "ready"
    rig.now += 60
    async with rig.pool.reserve(100 * MB):
        assert rig.state("a") == "evicted"


@pytest.mark.parametrize("why", ["held", "pinned", "active"])
async def test_protected_models_are_not_evicted(why):
    """A model that is held, pinned or inferring stays; the newcomer gets 507."""
    rig = Rig(Probe(150 * MB))
    async with contextlib.AsyncExitStack() as stack:
        if why == "held":
            await stack.enter_async_context(rig.pool.hold(rig.plan("a")))
        else:
            await rig.touch("a", pin=why == "pinned")
        if why == "active":
            rig.workers["a"].gate.clear()
            job = asyncio.create_task(rig.pool.infer(rig.plan("a"), JOB))
            await asyncio.sleep(0.01)
        with pytest.raises(OutOfMemory):
            await rig.touch("b")
        assert not rig.workers["a"].closed
        if why == "active":
            rig.workers["a"].gate.set()
            await job


async def test_minimum_residence_holds_an_eviction_back():
    """A model that was loaded just now is not evicted before its minimum residence."""
    rig = Rig(Probe(150 * MB), min_residence=10.0)
    await rig.touch("a")
    load = asyncio.create_task(rig.touch("b"))
    await asyncio.sleep(0.05)
    assert rig.state("a") == "ready"
    rig.now += 60
    load.cancel()
    await asyncio.wait([load])
    await rig.pool.close()


async def test_vram_ceiling_refuses():
    """A model that does not fit into the GPU's memory gets 507, and nothing goes in vain."""
    rig = Rig(Probe(10_000 * MB, [Gpu(total=200 * MB, used=150 * MB)]), vram_fraction=1.0)
    await rig.touch("idle")
    with pytest.raises(OutOfMemory):
        await rig.touch("a", estimate=100, gpu=True)
    assert rig.state("idle") == "ready"
    await rig.touch("a", estimate=100, gpu=True, device="cpu")
    await rig.touch("b", estimate=100)
    assert (rig.state("a"), rig.state("b")) == ("ready", "ready")


class GpuProbe(Probe):
    """A machine with a GPU of 200 MB, on which each worker that is not closed has taken 120."""

    def __init__(self):
        super().__init__(10_000 * MB)
        self.workers = []

    def gpus(self):
        """Tell what is used now."""
        open_ = sum(not worker.closed for worker in self.workers)
        return [Gpu(total=200 * MB, used=120 * MB * open_)]

    def vram_of(self, pid):
        """Tell what a process has."""
        return 120 * MB


class GpuRig(Rig):
    """A pool on that machine."""

    def __init__(self, **sizes):
        super().__init__(probe := GpuProbe(), sizes, vram_fraction=1.0)
        self._probe = probe

    async def load(self, plan):
        worker = await super().load(plan)
        self._probe.workers.append(worker)
        return worker


async def test_an_idle_model_makes_room_on_the_gpu():
    """What it has there is free once it is gone, and no other model goes for it."""
    rig = GpuRig()
    await rig.touch("a", estimate=10, gpu=True)
    await rig.touch("b", estimate=100, gpu=True)
    assert (rig.state("a"), rig.state("b")) == ("evicted", "ready")


async def test_measured_memory_of_a_gpu_decides_over_the_estimate():
    """A model that once took more than was thought is not loaded beside another one again."""
    rig = GpuRig(a=10)
    await rig.touch("a", estimate=10, gpu=True)
    await rig.pool.unload("a")
    async with rig.pool.hold(rig.plan("b", 10, gpu=True)):
        with pytest.raises(OutOfMemory):
            await rig.touch("a", estimate=10, gpu=True)
        await rig.touch("c", estimate=10, gpu=True)  # of which nobody knows it yet


async def test_models_that_are_being_loaded_count_on_the_gpu():
    """What comes there is not in what the driver tells: the second one is refused."""
    rig = GpuRig()
    rig.gate.clear()
    first = asyncio.create_task(rig.touch("a", estimate=120, gpu=True))
    await asyncio.sleep(0.01)
    with pytest.raises(OutOfMemory):
        await rig.touch("b", estimate=120, gpu=True)
    rig.gate.set()
    await first
    assert rig.state("a") == "ready"


@pytest.mark.parametrize("number", [1, 3])
async def test_a_gpu_that_is_not_there_is_refused(number):
    """A device that the machine lacks is an answer, not a crash, and is told beside the state."""
    rig = Rig(Probe(10_000 * MB, [Gpu(total=200 * MB, used=0)]))
    with pytest.raises(Unavailable, match=f"no GPU {number}"):
        await rig.touch("a", gpu=True, device=f"cuda:{number}")
    assert f"no GPU {number}" in rig.pool.status("a", "detect").error


async def test_a_clock_that_is_set_back_changes_no_eviction():
    """Minimum residence and the order of use are told by a clock that nobody sets."""
    rig = Rig(Probe(250 * MB), min_residence=10.0)
    for name in ("a", "b"):
        await rig.touch(name)
        rig.wall -= 3600
    rig.now += 60
    async with asyncio.timeout(5):
        await rig.touch("c")
    assert [rig.state(name) for name in "abc"] == ["evicted", "ready", "ready"]


@pytest.mark.parametrize("end", [RuntimeError("no luck"), SystemExit(1), BaseException("panic")])
async def test_a_worker_that_cannot_be_closed_is_unloaded_all_the_same(caplog, end):
    """Its engine may be a plugin's: that is logged, and who needs the room is not who failed.

    It may still be running, so it is ended with the others when the server is.
    """
    rig = Rig(Probe(300 * MB))
    await rig.touch("a")
    worker, terminated = rig.workers["a"], []

    async def fail():
        raise end

    worker.close, worker.terminate = fail, terminated.append
    await rig.touch("big", estimate=250)
    assert [rig.state(name) for name in ("a", "big")] == ["evicted", "ready"]
    assert 'mataserver_model_memory_bytes{model="a"} 0.0' in rig.metrics.registry.render().decode()
    rig.workers["big"].terminate = lambda _error: None
    rig.pool.dismiss()
    assert [error.status for error in terminated] == [503]
    assert "the worker of a could not be closed" in caplog.text


async def test_an_eviction_is_not_given_up_with_who_waits_for_the_room():
    """What has begun to be unloaded is closed; else nobody would ever close it.

    Until then its memory is not free: the next model is loaded when it is.
    """
    rig = Rig(Probe(100 * MB))
    await rig.touch("a")
    worker, begun, may_end = rig.workers["a"], asyncio.Event(), asyncio.Event()

    async def close():
        begun.set()
        await may_end.wait()
        worker.closed = True

    worker.close = close
    waiting = asyncio.create_task(rig.pool.reserve(100 * MB).__aenter__())
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    loading = asyncio.create_task(rig.touch("b"))
    for _ in range(100):
        await asyncio.sleep(0)
    assert rig.loads == ["a"]
    may_end.set()
    await loading
    assert (worker.closed, rig.state("b"), rig.loads) == (True, "ready", ["a", "b"])


async def test_a_model_that_is_still_being_unloaded_takes_its_room():
    """A chat that it writes goes on to its end, in the same memory; another model waits for it."""
    rig = Rig(Probe(100 * MB))
    await rig.touch("a")
    rig.workers["a"].gate.clear()
    answering = asyncio.create_task(rig.pool.infer(rig.plan("a"), JOB))
    await until(lambda: rig.state("a") == "active")
    unloading = asyncio.create_task(rig.pool.unload("a"))
    await until(lambda: rig.state("a") == "unloaded")
    with pytest.raises(OutOfMemory, match="Not enough memory to load huge"):
        await rig.touch("huge", estimate=101)
    with pytest.raises(OutOfMemory, match="Not enough memory now"):
        await rig.pool.reserve(1 * MB).__aenter__()
    coming = asyncio.create_task(rig.touch("b"))
    await until(lambda: rig.state("b") == "loading")
    await asyncio.sleep(0.05)
    assert rig.loads == ["a"]
    rig.workers["a"].gate.set()
    await asyncio.gather(answering, unloading, coming)
    assert rig.workers["a"].closed
    assert rig.loads == ["a", "b"]


async def test_a_load_does_not_wait_for_ever_for_a_model_that_is_being_unloaded():
    """It waits as long as it may take; what goes later makes room for the next."""
    rig = Rig(Probe(100 * MB), load_timeout=0.3)
    await rig.touch("a")
    rig.workers["a"].gate.clear()
    answering = asyncio.create_task(rig.pool.infer(rig.plan("a"), JOB))
    await until(lambda: rig.state("a") == "active")
    unloading = asyncio.create_task(rig.pool.unload("a"))
    await until(lambda: rig.state("a") == "unloaded")
    with pytest.raises(OutOfMemory, match="Not enough memory to load b"):
        async with asyncio.timeout(10):
            await rig.touch("b")
    rig.workers["a"].gate.set()
    await asyncio.gather(answering, unloading)
    await rig.touch("b")
    assert rig.loads == ["a", "b"]
