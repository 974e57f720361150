"""Checks one Triton periodically, and reconciles placements that differ from what is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mataserver import AddressRefused, MataError
from mataserver_database import finish
from mataserver_fleet.counts import ModelCounts
from mataserver_fleet.placements import Placements
from mataserver_fleet.reconciler import Reconciler
from mataserver_fleet.retry_delays import RetryDelays
from mataserver_fleet.store import pause, text
from mataserver_fleet.tables import TRITONS
from mataserver_fleet.triton_answers import TritonError
from mataserver_fleet.triton_counts import TritonCounts
from mataserver_fleet.triton_leftovers import TritonLeftovers
from mataserver_fleet.tritons import ServedModel, TritonReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver import Context
    from mataserver_fleet.files import FileStore
    from mataserver_fleet.leadership import LeaderLease
    from mataserver_fleet.placements import Placement
    from mataserver_fleet.shared_path import SharedPath
    from mataserver_fleet.store import Store
    from mataserver_fleet.triton_answers import ModelCount
    from mataserver_fleet.triton_client import TritonClient
    from mataserver_fleet.tritons import Gpu

NOTE_SECONDS = 5.0
"""How often the time of a Triton's last answer is kept while nothing else changes."""
GPU_EVERY = DEEP_CHECK_EVERY = 10
"""Every how many looks GPUs' figures are asked, and whether models are those that were sent."""
RETRY_SECONDS, RETRY_PART = 0.1, 20
"""How soon one that is away is looked at again: at first, and then after what part of its absence.

Most come back within seconds, and what they had is missed until they are looked at.
"""


class TritonWatch:
    """Watches a Triton from now on."""

    def __init__(
        self,
        ctx: Context,
        store: Store,
        files: FileStore,
        key: int,
        client: TritonClient,
        shared: SharedPath | None,
        *,
        lease: LeaderLease,
    ) -> None:
        self.address = client.address
        self._ctx = ctx
        self._store = store
        self._key = key
        self._client = client
        self._placements = Placements(store)
        limit = ctx.settings.load_timeout
        self._reconciler = Reconciler(self._placements, files, self._client, limit, shared)
        self._counts = TritonCounts(ModelCounts(store, lease), key)
        self._leftovers = TritonLeftovers(ctx, store, key, client)
        self._changed = asyncio.Event()
        self._reconcile_tasks: dict[int, asyncio.Task[None]] = {}
        self._retry_delays = RetryDelays(time.monotonic)
        self._last_report: tuple[str, str, TritonReport | None] = ("", "", None)
        self._reported_at = float("-inf")
        self._last_versions: list[tuple[str, int]] | None = None
        self._look_count = 0
        self._gpus: list[Gpu] = []
        self._gpu_task: asyncio.Task[None] | None = None
        self._away_since: float | None = None
        self._running = asyncio.get_running_loop().create_task(self._run())

    def wake(self) -> None:
        """Check now: the wanted placements may have changed."""
        self._changed.set()

    @property
    def failure(self) -> BaseException | None:
        """The exception that ended the watch, None while it runs."""
        return self._running.exception() if self._running.done() else None

    async def stop(self) -> None:
        """Stop; a statement in progress is completed by ``finish``."""
        asking = [] if self._gpu_task is None else [self._gpu_task]
        working = [*self._reconcile_tasks.values(), *self._leftovers.tasks]
        tasks = [self._running, *working, *asking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        report = ""
        while True:
            try:
                await self._check_or_report()
                report = ""
            except MataError as error:  # the database is away
                if error.detail != report:  # once, and not with every look
                    name, report = self.address.name, error.detail
                    self._ctx.log.warning("%s is not managed now: %s", name, report)
            await pause(self._changed, self._next_delay())

    def _next_delay(self) -> float:
        """Return the seconds until the next look: fewer where it has been away for a short time."""
        probe, now = float(self._ctx.settings.probe), time.monotonic()
        if self._last_report[0] == "ready":
            self._away_since = None
            return probe
        self._away_since = now if self._away_since is None else self._away_since
        return min(probe, max(RETRY_SECONDS, (now - self._away_since) / RETRY_PART))

    async def _check_or_report(self) -> None:
        try:
            await self._check()
        except AddressRefused as error:
            await self._report("offline", error.detail, None)
        except TritonError as error:
            await self._report("unready" if error.answered else "offline", error.detail, None)

    async def _check(self) -> None:
        """Ask a Triton how it is, note it, and begin to mend. Raises ``TritonError``.

        Lost models are stored before the Triton is stored as ready, so that it never looks ready
        without them. Its metrics are not awaited: they may hang, and models are restored in the
        meantime.
        """
        await self._client.check_live()
        described = await self._client.describe()
        busy = frozenset(self._reconcile_tasks)  # any may end while the Triton is asked
        counts = sorted(await self._client.counts())
        if self._last_report[0] != "ready":
            self._retry_delays.clear_refused()
        await self._counts.note(counts, busy)  # before anything is sent
        wrong = await self._find_unsettled(counts, busy)
        for placement, serving in wrong:
            kept = placement.versions if placement.wanted else ()
            self._counts.begin(placement.model, set(serving) - set(kept))
            task = asyncio.get_running_loop().create_task(self._reconcile(placement, serving))
            self._reconcile_tasks[placement.model] = task
        if self._look_count % DEEP_CHECK_EVERY == 0 or self._last_report[0] != "ready":
            await self._leftovers.look()
        if self._look_count % GPU_EVERY == 0 and (self._gpu_task is None or self._gpu_task.done()):
            self._gpu_task = asyncio.get_running_loop().create_task(self._read_gpus())
        self._look_count += 1
        models = [ServedModel(each.name, str(each.number)) for each in counts]
        await self._report("ready", "", TritonReport(described.version, models, self._gpus))

    async def _read_gpus(self) -> None:
        """Keep the figures of its GPUs for the next look; none while its metrics do not answer."""
        try:
            self._gpus = await self._client.gpus()
        except MataError as error:
            self._gpus = []
            self._ctx.log.info("%s has no metrics now: %s", self.address.name, error.detail)

    async def _find_unsettled(
        self, counts: Sequence[ModelCount], busy: frozenset[int]
    ) -> list[tuple[Placement, tuple[int, ...]]]:
        """Return the placements that are not as they are wanted, with what is served of each.

        The models of ``busy`` were worked on when the Triton was asked: what it said of one may be
        older than the result that is stored by now, and would look like a loss.

        Whether a model is still what was sent is asked now and then, and whenever something at
        the Triton changed: for many models it is many questions.
        """
        versions = [(each.name, each.number) for each in counts]
        deep = versions != self._last_versions or self._look_count % DEEP_CHECK_EVERY == 0
        found: list[tuple[Placement, tuple[int, ...]]] = []
        lost: list[tuple[Placement, tuple[int, ...]]] = []
        for placement in await finish(self._placements.at(self._key)):
            waits = self._retry_delays.is_waiting(placement.model, placement.generation)
            if placement.model in busy or waits:
                continue
            serving = tuple(sorted({each.number for each in counts if each.name == placement.name}))
            if await self._reconciler.is_settled(placement, serving, deep=deep):
                continue
            if placement.done == placement.generation and placement.state == "ready":
                lost.append((placement, serving))
            found.append((placement, serving))
        if lost:
            await finish(self._placements.note_lost(self._key, lost))
        # Not before all of them were asked: the next look asks again. It does too where work has
        # ended meanwhile.
        self._last_versions = versions if busy <= self._reconcile_tasks.keys() else None
        return found

    async def _report(self, state: str, reason: str, seen: TritonReport | None) -> None:
        """Store its state: immediately where it changed, and from time to time that it answered."""
        now, report = time.monotonic(), (state, reason, seen)
        if report == self._last_report and now - self._reported_at < NOTE_SECONDS:
            return
        values: dict[str, Any] = {"state": state, "reason": reason}
        values |= {"seen": text(seen)} if seen is not None else {}
        values |= {"answered_at": self._store.clock()} if state != "offline" else {}
        changed = self._last_report[:2] != report[:2]
        await finish(self._store_report(values, changed=changed))
        self._last_report, self._reported_at = report, now
        if changed:
            self._ctx.log.info("the Triton %s is %s. %s", self.address.name, state, reason)

    async def _store_report(self, values: dict[str, Any], *, changed: bool) -> None:
        change = sa.update(TRITONS).where(TRITONS.c.id == self._key).values(**values)
        async with self._store.database.begin() as connection:
            await connection.execute(change)
            if changed:
                await self._store.bump_version(connection)

    async def _reconcile(self, placement: Placement, serving: tuple[int, ...]) -> None:
        try:
            async with self._leftovers.lock(placement.name):
                outcome = await self._reconciler.reconcile(placement, serving)
            if outcome.counts_reset:
                await self._counts.reset(placement.model)
            if outcome.state == "failed":
                self._retry_delays.start(placement.model, placement.generation, interrupted=False)
            else:
                self._retry_delays.clear(placement.model)
            await finish(self._placements.note(placement.model, self._key, outcome))
            place, reason = self.address.name, outcome.reason.partition("\n")[0]
            self._ctx.log.info("%s at %s is %s. %s", placement.name, place, outcome.state, reason)
            self._changed.set()
        except MataError as error:  # it is away, or the database is: the next look tells
            reason = error.detail
            if isinstance(error, TritonError):
                seconds = self._retry_delays.start(
                    placement.model, placement.generation, interrupted=True
                )
                reason += f"; it is tried again in {seconds:g} s" if seconds else ""
            self._ctx.log.warning("%s at %s: %s", placement.name, self.address.name, reason)
            with contextlib.suppress(MataError):
                await finish(self._placements.note_reason(placement, self._key, reason))
        finally:
            self._reconcile_tasks.pop(placement.model, None)
            self._counts.end(placement.model)
            self._last_versions = None  # changes during the work were not checked
