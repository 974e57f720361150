"""The model pool: which models are in memory. Policy only.

States, joined loads, reference counts, keep-alive, eviction of the least recently used under RAM
and VRAM ceilings, and back-off for workers that keep dying. Time, loader and memory probe are
arguments. What is decided by time is decided by a clock that nobody sets; Unix time is only shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from mataserver.background import BACKGROUND, Background
from mataserver.batching import Batcher, NotDispatchedError
from mataserver.engines.work import Displaced, WorkerDied
from mataserver.errors import MataError, OutOfMemory, Unavailable, scarcity
from mataserver.slots import Refusal, Slot, Status

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

    from mataserver.engines.memory import Gpu
    from mataserver.engines.work import Death, Job, Outcome, Worker
    from mataserver.metrics import Metrics
    from mataserver.slots import Policy, Probe, Recipe

log = logging.getLogger("mataserver.pool")

FREE_DEATHS = 2
LONGEST_BACKOFF = 60.0
RECHECK = 0.2
REFUSED = 60.0
"""Seconds for which a load that failed for a lasting reason is not tried again unseen."""
MOST_MOVES = 10
"""Workers that a job is given to one after the other, each replaced for somebody else's image."""
LEAVING = 30.0
"""Seconds that a load waits for whoever still uses the worker before."""


class ModelPool:
    """Loads, holds and unloads models."""

    def __init__(
        self,
        loader: Callable[[Recipe], Awaitable[Worker]],
        probe: Probe,
        metrics: Metrics,
        policy: Policy,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._loader = loader
        self._probe = probe
        self._metrics = metrics
        self._policy = policy
        self._clock = clock
        self._wall = wall
        self._slots: dict[tuple[str, str], Slot] = {}
        self._pins: set[str] = set()
        self._reserved = 0
        self._room = asyncio.Lock()
        self._closed = asyncio.Event()
        self._leaving: set[Worker] = set()
        self._background = Background(clock)

    # what others ask for

    def status(self, name: str, task: str) -> Status:
        """Return a model's state at once, whatever is going on.

        A model that is in memory for another task alone (tracking) is told as that.
        """
        slot = self._slots.get((name, task))
        if slot is None or (slot.worker is None and slot.loading is None):
            others = (s for s in self._named(name) if s.worker is not None)
            slot = next(others, slot)
        pinned = name in self._pins
        if slot is None:
            return Status(pinned=pinned)
        loaded = slot.worker is not None
        return Status(
            slot.state,
            slot.ram + slot.vram if loaded else None,
            slot.loaded_at if loaded else None,
            slot.last_used,
            slot.error,
            pinned,
        )

    def pin(self, name: str) -> None:
        """Never evict a model, whether it is loaded now or not, until it is unpinned."""
        self._pins.add(name)

    def unpin(self, name: str) -> bool:
        """Let a model be evicted again; whether it was pinned."""
        known = name in self._pins
        self._pins.discard(name)
        return known

    @contextlib.asynccontextmanager
    async def hold(self, recipe: Recipe) -> AsyncIterator[None]:
        """Load the model if need be and keep it from being unloaded until the context ends."""
        slot = await self._acquire(recipe)
        slot.held += 1
        try:
            yield
        finally:
            slot.held -= 1
            self._release(slot)

    @contextlib.asynccontextmanager
    async def reserve(self, size: int) -> AsyncIterator[None]:
        """Count so many bytes of a process that is no model until the context ends.

        What is idle is evicted for it. Raises ``OutOfMemory`` when it does not fit now.
        """
        if await self._evict_for(None, size):
            raise OutOfMemory("Not enough memory now")
        try:
            yield
        finally:
            self._reserved -= size

    async def infer(self, recipe: Recipe, job: Job) -> tuple[Outcome, float]:
        """Run one job, loading the model if need be; return its outcome and its wait in ms.

        A job whose worker died before it was given the job goes to the next worker, and so does one
        whose worker was replaced for somebody else's image. Background work waits for its turn,
        and holds no model meanwhile.
        """
        background = self._background
        if BACKGROUND.get():
            async with background.turn() as behind:
                outcome, waited = await self._infer(recipe, job, behind=behind)
                background.note(outcome.timing.total / 1e3)
                return outcome, waited
        background.others_came()
        try:
            return await self._infer(recipe, job)
        finally:
            background.others_left()

    async def _infer(
        self, recipe: Recipe, job: Job, *, behind: bool = False
    ) -> tuple[Outcome, float]:
        deaths = 0
        for move in range(MOST_MOVES):
            slot = await self._acquire(recipe)
            try:
                if slot.batcher is None:
                    continue
                outcome, waited = await slot.batcher.submit(job, behind=behind)
            except Displaced:
                if move < MOST_MOVES - 1:
                    continue
                raise
            except NotDispatchedError:
                deaths += 1
                if deaths == 1:
                    continue
                raise Unavailable("The model's worker keeps dying", retry_after=1) from None
            finally:
                self._release(slot)
            self._note(slot, outcome, waited)
            return outcome, waited
        raise Unavailable("The model was unloaded meanwhile", retry_after=1)

    async def generate(self, recipe: Recipe, job: Job) -> AsyncGenerator[str | Outcome]:
        """Yield the pieces of text that a model makes for a job, then its outcome.

        Loads the model if need be; closing the iterator stops the work. A job whose worker was
        replaced for somebody else's image before it gave a piece begins anew on the next one.
        """
        async with self._background.entered():
            for move in range(MOST_MOVES):
                begun = False
                try:
                    async with contextlib.aclosing(self._generate(recipe, job)) as items:
                        async for item in items:
                            begun = True
                            yield item
                except Displaced:
                    if begun or move == MOST_MOVES - 1:
                        raise
                else:
                    return

    async def _generate(self, recipe: Recipe, job: Job) -> AsyncGenerator[str | Outcome]:
        slot = await self._acquire(recipe)
        try:
            if slot.batcher is None:
                raise Unavailable("The model was unloaded meanwhile", retry_after=1)
            async with contextlib.aclosing(slot.batcher.generate(job)) as items:
                async for item in items:
                    if not isinstance(item, str):
                        self._note(slot, item, 0.0)
                        if BACKGROUND.get():
                            self._background.note(item.timing.total / 1e3)
                    yield item
        finally:
            self._release(slot)

    @contextlib.contextmanager
    def occupied(self, recipe: Recipe) -> Iterator[Worker]:
        """Give the worker of a model that is held; it is not unloaded before the context ends.

        Raises ``Unavailable`` if it just died or was unloaded.
        """
        slot = self._slots.get(recipe.key)
        if slot is None or slot.batcher is None:
            raise Unavailable("The model's worker is gone", retry_after=1)
        slot.used = True
        try:
            with self._background.others(), slot.batcher.occupied() as worker:
                yield worker
        finally:
            self._touch(slot)

    def stateful(self, recipe: Recipe) -> bool:
        """Whether a model keeps the state of sessions, as far as one can know: if it is loaded."""
        slot = self._slots.get(recipe.key)
        return slot is None or slot.worker is None or slot.worker.facts.stateful

    async def unload(self, name: str, task: str | None = None, reason: str = "stopped") -> bool:
        """Unload a model after its active inferences, for one task or for all it is loaded for.

        Returns False when it was not loaded.
        """
        slots = [slot for slot in self._named(name) if task in {None, slot.recipe.spec.task}]
        return any([await self._unload(slot, reason) for slot in slots])

    def _named(self, name: str) -> list[Slot]:
        return [slot for (model, _), slot in self._slots.items() if model == name]

    async def _unload(self, slot: Slot, reason: str) -> bool:
        if slot.loading is not None:
            await asyncio.wait([slot.loading])
        if slot.worker is None:
            return False
        await asyncio.shield(self._leave(slot, reason))
        return True

    def held(self, name: str) -> int:
        """Return how many hold a model beyond a request: sessions, cameras, plugins."""
        return sum(slot.held for slot in self._named(name))

    def tell_queues(self) -> None:
        """Set the gauges of the queues' lengths."""
        waiting = {slot.recipe.spec.name: 0 for slot in self._slots.values()}
        for slot in self._slots.values():
            waiting[slot.recipe.spec.name] += 0 if slot.batcher is None else len(slot.batcher)
        for name, length in waiting.items():
            self._metrics.queued.labels(name).set(length)

    def loaded(self) -> list[tuple[str, str]]:
        """Return name and task of every model in memory."""
        return [key for key, slot in self._slots.items() if slot.worker is not None]

    def stop_loading(self) -> None:
        """Give up the loads under way, and begin none: who waits is told that the server stops."""
        self._closed.set()
        for slot in self._slots.values():
            if slot.loading is not None:
                slot.loading.cancel()
            self._stop_timer(slot)

    def dismiss(self) -> None:
        """End every worker at once: who waits is told that the server stops."""
        self.stop_loading()
        workers = {slot.worker for slot in self._slots.values() if slot.worker is not None}
        for worker in workers | self._leaving:
            worker.dismiss(_stopping())

    async def close(self) -> None:
        """Unload everything; loads under way are given up."""
        self.stop_loading()
        tasks = [self._leave(slot, "shutdown") for slot in self._slots.values() if slot.worker]
        tasks += [slot.loading for slot in self._slots.values() if slot.loading is not None]
        tasks += [slot.leaving for slot in self._slots.values() if slot.leaving is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    # holding

    async def _acquire(self, recipe: Recipe) -> Slot:
        slot = self._slots.get(recipe.key)
        if slot is None:
            slot = self._slots[recipe.key] = Slot(recipe)
        slot.holders += 1
        if slot.worker is not None and not slot.recipe.same_model(recipe):
            self._leave(slot, "replaced")
        try:
            if slot.worker is None or not slot.worker.alive:
                await self._join_load(slot, recipe)
        except BaseException:
            self._release(slot)
            raise
        return slot

    def _touch(self, slot: Slot) -> None:
        """Note that a model was used now."""
        slot.last_used, slot.touched = self._wall(), self._clock()

    def _release(self, slot: Slot) -> None:
        slot.holders -= 1
        if slot.used and slot.worker is not None:
            self._touch(slot)
        self._start_timer(slot)

    async def _join_load(self, slot: Slot, recipe: Recipe) -> None:
        if self._closed.is_set():
            raise _stopping()
        if slot.loading is None and slot.refusal is not None:
            await slot.refusal.check(recipe, self._clock())
            slot.refusal = None
        if slot.loading is None:
            wait = slot.not_before - self._clock()
            if wait > 0:
                raise Unavailable("The model's worker keeps dying", retry_after=round(wait + 0.5))
            slot.recipe = recipe
            slot.loading = asyncio.get_running_loop().create_task(self._load(slot))
            slot.loading.add_done_callback(_retrieve)
        await self._loaded(slot.loading)

    async def _loaded(self, loading: asyncio.Task[None]) -> None:
        """Wait for a load; who stops waiting does not stop it.

        What is given up may take a while to end, which nobody has to wait for.
        """
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait([loading, closed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
        if not loading.done() or loading.cancelled():
            raise _stopping()
        loading.result()

    # loading

    async def _load(self, slot: Slot) -> None:
        name = slot.recipe.spec.name
        try:
            await self._left(slot)
            await self._make_room(slot)
            async with asyncio.timeout(self._policy.load_timeout):
                worker = await self._loader(slot.recipe)
        except TimeoutError:
            limit = self._policy.load_timeout
            self._load_failed(slot, MataError(f"The model did not load within {limit:g} s"))
            raise MataError(f"The model did not load within {limit:g} s") from None
        except WorkerDied:
            # To whoever waits a worker that died is one that can be replaced; this one cannot.
            failure = MataError("The model could not be loaded: its worker died")
            self._load_failed(slot, failure)
            raise failure from None
        except MataError as error:
            self._load_failed(slot, error)
            if error.lasting:
                until = self._clock() + REFUSED
                slot.refusal = await Refusal.of(slot.recipe, error, until)
            raise
        except Exception as error:
            failure = scarcity(error) or MataError("The model could not be loaded")
            if failure.status != Unavailable.status:
                log.exception("the load of %s failed in a way of its own", name)
            self._load_failed(slot, failure)
            raise failure from error
        finally:
            slot.loading = None
        if not worker.alive:
            await worker.close()
            raise MataError("The model could not be loaded: its worker died")
        await self._settle(slot, worker)
        log.info("loaded %s (%s)", name, slot.recipe.backend.name)

    async def _left(self, slot: Slot) -> None:
        """Wait for the last worker's end. Raises ``Unavailable`` when somebody still uses it."""
        if slot.leaving is None:
            return
        patience = min(LEAVING, self._policy.load_timeout)
        _, waiting = await asyncio.wait([slot.leaving], timeout=patience)
        if waiting:
            raise Unavailable("The model is being unloaded", retry_after=5)

    async def _settle(self, slot: Slot, worker: Worker) -> None:
        settings = slot.recipe.settings
        name = slot.recipe.spec.name
        slot.worker = worker
        slot.batcher = Batcher(
            worker,
            max_batch=settings.max_batch or slot.recipe.backend.max_batch,
            max_wait=settings.max_wait_ms / 1e3,
            queue_limit=self._policy.queue_limit,
        )
        slot.evicted, slot.used, slot.error = False, False, None
        slot.loaded_at, slot.settled = self._wall(), self._clock()
        slot.touched = slot.settled
        worker.on_death(lambda death: self._died(slot, worker, death))
        self._metrics.loads.labels(name, "ok").inc()
        self._metrics.loaded.set(len(self.loaded()))
        await self._measure(slot, worker)
        self._start_timer(slot)  # nobody may be waiting for it any more

    async def _measure(self, slot: Slot, worker: Worker) -> None:
        slot.ram = await worker.memory() or slot.ram
        slot.vram = sum(map(self._probe.vram_of, worker.pids))
        self._tell_memory(slot.recipe.spec.name)

    def _tell_memory(self, name: str) -> None:
        """Set the gauge of a model's memory: it may be loaded for two tasks."""
        held = sum(s.ram + s.vram for s in self._named(name) if s.worker is not None)
        self._metrics.memory.labels(name).set(held)

    def _load_failed(self, slot: Slot, error: MataError) -> None:
        slot.error = error.detail
        slot.ram = 0
        self._metrics.loads.labels(slot.recipe.spec.name, "failed").inc()
        log.error("could not load %s: %s", slot.recipe.spec.name, error.detail)

    # memory

    async def _make_room(self, slot: Slot) -> None:
        """Evict until the model fits. Raises ``OutOfMemory`` when it cannot."""
        need = slot.ram or slot.recipe.estimate
        wait = await self._evict_for(slot, need)
        while wait:
            await asyncio.sleep(wait)  # without the lock: what fits at once is not held up
            wait = await self._evict_for(slot, need)

    async def _evict_for(self, newcomer: Slot | None, need: int) -> float:
        """Evict what may go now; return the seconds to wait for more, 0 once all fits.

        ``need`` bytes then count as the model's, or with None as reserved.
        """
        async with self._room:
            if self._short(need, newcomer, self._evictable()):
                raise _no_room(newcomer)
            while short := self._short(need, newcomer, []):
                candidates = [s for s in self._evictable() if short == "ram" or s.vram]
                victim = self._victim(candidates)
                if victim is not None:
                    await self._leave(victim, "evicted")
                elif candidates:
                    return max(0.01, min(map(self._age_left, candidates)))
                else:
                    raise _no_room(newcomer)
            if newcomer is None:
                self._reserved += need
            else:
                newcomer.ram = need
            return 0.0

    def _short(self, need: int, newcomer: Slot | None, spared: list[Slot]) -> str:
        """Return which memory the newcomer lacks, "ram" or "vram", if ``spared`` were gone."""
        others = [
            each
            for each in self._slots.values()
            if each is not newcomer and each not in spared and (each.worker or each.loading)
        ]
        held = self._probe.own() + self._reserved + sum(each.ram for each in others)
        if held + need > self._policy.ram_fraction * self._probe.ram_total():
            return "ram"
        if newcomer is None:
            return ""
        gpu = self._gpu(newcomer)
        if gpu is None:
            return ""
        coming = sum(s.vram or s.ram for s in others if s.loading and s.recipe.uses_gpu)
        used = gpu.used + coming - sum(each.vram for each in spared)
        wanted = newcomer.vram or need
        return "vram" if used + wanted > self._policy.vram_fraction * gpu.total else ""

    def _gpu(self, slot: Slot) -> Gpu | None:
        """Return the GPU that a model goes to, or None. Raises ``Unavailable`` if it is absent."""
        device = slot.recipe.settings.device or self._policy.device
        if device == "cpu" or not slot.recipe.uses_gpu:
            return None
        gpus = self._probe.gpus()
        index = int(device.partition(":")[2] or 0)
        if index >= len(gpus):
            if device == "auto" or not gpus:
                return None  # no driver to ask: the backend itself knows whether it can run
            raise Unavailable(f"There is no GPU {index}")
        return gpus[index]

    def _evictable(self) -> list[Slot]:
        return [
            slot
            for slot in self._slots.values()
            if slot.worker is not None
            and not slot.holders
            and not slot.active
            and not slot.recipe.settings.pin
            and slot.recipe.spec.name not in self._pins
        ]

    def _age_left(self, slot: Slot) -> float:
        return slot.settled + self._policy.min_residence - self._clock()

    def _victim(self, candidates: list[Slot]) -> Slot | None:
        old = [slot for slot in candidates if self._age_left(slot) <= 0]
        return min(old, key=lambda s: s.touched, default=None)

    # leaving

    def _leave(self, slot: Slot, reason: str) -> asyncio.Task[None]:
        """Take a model out of memory; requests that come meanwhile load it again."""
        worker, batcher = slot.worker, slot.batcher
        slot.worker = slot.batcher = None
        if worker is not None:
            self._leaving.add(worker)
        slot.loaded_at = None
        slot.evicted = reason == "evicted"
        self._stop_timer(slot)
        name = slot.recipe.spec.name
        self._metrics.unloads.labels(name, reason).inc()
        self._metrics.loaded.set(len(self.loaded()))

        async def leave() -> None:
            if batcher is not None:
                await batcher.drain()
            if worker is not None:
                await worker.close()
                self._leaving.discard(worker)
            self._tell_memory(name)
            log.info("unloaded %s: %s", name, reason)

        slot.leaving = asyncio.get_running_loop().create_task(leave())
        return slot.leaving

    def _start_timer(self, slot: Slot) -> None:
        """Have the model unloaded once nobody has held it for its keep-alive.

        A timer that runs already is left to run: it looks again when it rings.
        """
        if slot.holders or slot.worker is None or self._closed.is_set():
            return
        slot.idle_since = asyncio.get_running_loop().time()
        seconds = self._keep_alive(slot)
        if slot.timer is None and seconds >= 0:
            loop = asyncio.get_running_loop()
            slot.timer = loop.call_later(seconds, self._expire, slot)

    def _keep_alive(self, slot: Slot) -> float:
        settings = slot.recipe.settings
        if settings.keep_alive is not None:
            return settings.keep_alive
        return -1.0 if settings.preload else self._policy.keep_alive

    def _stop_timer(self, slot: Slot) -> None:
        if slot.timer is not None:
            slot.timer.cancel()
            slot.timer = None

    def _expire(self, slot: Slot) -> None:
        slot.timer = None
        seconds = self._keep_alive(slot)
        if slot.worker is None or slot.holders or seconds < 0:
            return
        loop = asyncio.get_running_loop()
        left = slot.idle_since + seconds - loop.time()
        if slot.active:  # whoever asked went away, and the model still works on it
            left = max(left, RECHECK)
        if left > 0:
            slot.timer = loop.call_later(left, self._expire, slot)
        else:
            self._leave(slot, "keep-alive")

    def _died(self, slot: Slot, worker: Worker, death: Death) -> None:
        """Note a worker's end; what an image did is not counted against the model."""
        if death.blamed:
            self._blame(slot, death.reason)
        if slot.worker is worker:
            slot.worker = slot.batcher = None
            slot.loaded_at = None
            self._metrics.loaded.set(len(self.loaded()))

    def _blame(self, slot: Slot, reason: str) -> None:
        """Count a death; from the third in a row on, the next load is held back."""
        slot.deaths += 1
        slot.error = f"The worker died: {reason}"
        if slot.deaths > FREE_DEATHS:
            pause = min(LONGEST_BACKOFF, 2.0 ** (slot.deaths - FREE_DEATHS - 1))
            slot.not_before = self._clock() + pause
        self._metrics.deaths.labels(slot.recipe.spec.name).inc()

    def _note(self, slot: Slot, outcome: Outcome, waited: float) -> None:
        slot.deaths, slot.used = 0, True
        self._touch(slot)
        name = slot.recipe.spec.name
        self._metrics.inferences.add(name, "ok" if outcome.failure is None else "failed")
        observe, timing = self._metrics.stages.observe, outcome.timing
        observe(waited / 1e3, name, "queue")
        observe(timing.decode / 1e3, name, "decode")
        observe(timing.infer / 1e3, name, "infer")
        observe(timing.encode / 1e3, name, "encode")


def _stopping() -> Unavailable:
    """Return what who waits is told when the server stops."""
    return Unavailable("The server is shutting down", retry_after=5)


def _retrieve(task: asyncio.Task[None]) -> None:
    """Look at a load's failure, which nobody may be waiting for any more."""
    if not task.cancelled():
        task.exception()


def _no_room(newcomer: Slot | None) -> OutOfMemory:
    if newcomer is None:
        return OutOfMemory("Not enough memory now")
    return OutOfMemory(f"Not enough memory to load {newcomer.recipe.spec.name}")
