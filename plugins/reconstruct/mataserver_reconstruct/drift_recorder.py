"""Records the drift and the metrics of every reconstruction that ends, and triggers retraining."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import TYPE_CHECKING, Any

from mataserver import MataError
from mataserver_reconstruct import comparison, kind
from mataserver_reconstruct.history import (
    CHECK,
    RECONSTRUCTION,
    Baseline,
    HistoryEntry,
    sample_measures,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mataserver import Context
    from mataserver_jobs.desk import Desk
    from mataserver_jobs.record import Record
    from mataserver_reconstruct.gauges import Gauges
    from mataserver_reconstruct.history import History
    from mataserver_reconstruct.retraining import Retraining

PAUSE_SECONDS = 0.5
POLL_SECONDS = 60.0


class DriftRecorder:
    """Records ended jobs of all servers; each once, by whichever server is first."""

    def __init__(
        self, ctx: Context, desk: Desk, history: History, gauges: Gauges, retraining: Retraining
    ) -> None:
        self._ctx = ctx
        self._desk = desk
        self._history = history
        self._gauges = gauges
        self._retraining = retraining
        self._lock = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._faulty: set[tuple[float, str]] = set()  # ends whose fault is in the log

    @property
    def empty_report(self) -> dict[str, Any]:
        """The drift report without a comparison."""
        return comparison.report(comparison.ComparisonRequest(Baseline([], [])))

    async def run(self) -> None:
        """Record jobs until ``stop``.

        It is stopped and not cancelled, so that no database statement is interrupted.
        """
        with self._desk.watching() as self._changed:
            while not self._stopping.is_set():
                self._changed.clear()
                try:
                    await self._record_new()
                except (
                    MataError
                ) as error:  # of the database or a comparison: retried in the next round
                    self._ctx.log.warning("not every reconstruction is noted: %s", error.detail)
                await _wait(self._changed, POLL_SECONDS)
                await _wait(self._stopping, PAUSE_SECONDS)

    def stop(self) -> None:
        """Make ``run`` end."""
        self._stopping.set()
        self._changed.set()

    async def _record_new(self) -> None:
        self._gauges.active.set(await self._history.running(kind.NAME))
        async for end in self._history.unrecorded(kind.NAME):
            if self._stopping.is_set():
                return
            if end in self._faulty:
                continue
            _, job = end
            try:
                await self.record(await self._desk.store.get(job))
            except MataError:
                continue  # removed meanwhile, or retried in the next round
            except Exception:  # of a job that is like no other: the others are recorded
                self._faulty.add(end)
                self._ctx.log.exception("job %s is not noted", job)

    async def record(self, record: Record) -> HistoryEntry:
        """Return the entry of a finished reconstruction, creating it if there is none."""
        async with self._lock:
            known = await self._history.find(record.id, record.finished_at)
            if known is not None:
                return known
            entry = await self._build_entry(record)
            fresh = await self._history.add(entry)
        if fresh:
            self._publish(entry, record)
        return entry

    async def check(self, archive: Path, owner: str) -> dict[str, Any]:
        """Return the drift report of an archive's photographs. Raises ``MataError``."""
        order = comparison.ComparisonRequest(
            await self._history.baseline(owner), str(archive), self._ctx.settings.limits
        )
        answer = await comparison.run_comparison(self._ctx, order)
        entry = HistoryEntry(
            id=str(uuid.uuid4()),
            kind=CHECK,
            owner=owner,
            at=time.time(),
            dataset_name="",
            scene_name="",
            n_images=answer.report["n_images"],
            registration_rate=None,
            measures=answer.measures,
            report=answer.report,
        )
        await self._history.add(entry)
        return answer.report

    async def _build_entry(self, record: Record) -> HistoryEntry:
        found, spec = record.result, record.spec
        rows = _measures(found)
        order = comparison.ComparisonRequest(
            await self._history.baseline(record.owner, but=record.id),
            current=sample_measures(rows),
            n_images=_readable(found),
            rate=found["registration_rate"],
        )
        answer = await comparison.run_comparison(self._ctx, order)
        return HistoryEntry(
            id=record.id,
            kind=RECONSTRUCTION,
            owner=record.owner,
            at=record.finished_at or 0.0,
            dataset_name=spec["dataset_name"],
            scene_name=spec["scene_name"],
            n_images=found["n_images"],
            registration_rate=found["registration_rate"],
            measures=order.current,
            report=answer.report,
        )

    def _publish(self, entry: HistoryEntry, record: Record) -> None:
        """Update the metrics for a new entry, and retrain if its drift is high."""
        seconds = entry.at - (record.started_at or entry.at)
        self._gauges.ended(entry, seconds, _readable(record.result))
        if entry.report["severity"] == "high" and self._ctx.settings.auto_retrain:
            self._ctx.tasks.spawn(self._retrain(entry), "retrain for drift")

    async def _retrain(self, entry: HistoryEntry) -> None:
        try:
            triggered = await self._retraining.for_drift(entry.id, entry.report)
        except MataError as error:
            self._ctx.log.warning("drift of job %s: no retraining: %s", entry.id, error.detail)
        else:
            self._ctx.log.info("drift of job %s: run %s", entry.id, triggered.dag_run_id)


def _measures(found: Mapping[str, Any]) -> list[Mapping[str, float]]:
    """Return the measures of each photograph; results of older versions have no shares."""
    return [image["measures"] | image.get("shares", {}) for image in found["images"]]


def _readable(found: Mapping[str, Any]) -> int:
    return sum(bool(image["measures"]) for image in found["images"])


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, with a timeout."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
