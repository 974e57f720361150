"""Retraining: triggers Airflow's DAG, with a cooldown, and each run once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct, UnsetType

from mataserver_reconstruct.airflow import Airflow
from mataserver_reconstruct.history import Cooldown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mataserver import Context
    from mataserver_database import Database


class TriggeredRun(Struct, kw_only=True):
    """A run that was begun, or with ``already`` the one that was before and still counts."""

    status: str = "triggered"
    dag_run_id: str
    already: bool | UnsetType = UNSET


class Retraining:
    """Triggers the configured DAG. ``clock`` returns Unix seconds."""

    def __init__(
        self, ctx: Context, database: Database, clock: Callable[[], float] = time.time
    ) -> None:
        self._dag = ctx.settings.dag
        self._airflow = Airflow(ctx)
        self._cooldown = Cooldown(database, ctx.settings.cooldown_hours * 3600.0)
        self._clock = clock

    async def by_hand(self, who: str) -> TriggeredRun:
        """Trigger it for a person; once a minute at most. Raises ``MataError``."""
        now = self._clock()
        minute = time.strftime("%Y%m%dT%H%MZ", time.gmtime(now))
        return await self.trigger(f"manual-{minute}", {"reason": "manual", "requested_by": who})

    async def for_drift(self, job: str, report: Mapping[str, Any]) -> TriggeredRun:
        """Trigger it for the drift of a reconstruction's photographs. Raises ``MataError``."""
        features = [name for name, each in report["checks"].items() if each["drift"]]
        conf = {"reason": "drift", "job_id": job, "severity": report["severity"]}
        return await self.trigger(f"drift-{job}", {**conf, "features": features})

    async def trigger(self, run: str, conf: Mapping[str, Any]) -> TriggeredRun:
        """Start a run unless one was started within the cooldown. Raises ``MataError`` (502)."""
        earlier = await self._cooldown.claim(self._dag, run, self._clock())
        if earlier:
            return TriggeredRun(dag_run_id=earlier, already=True)
        begun = False
        try:
            fresh = await self._airflow.trigger(run, conf)
            begun = True
        finally:
            if not begun:
                await self._cooldown.release(self._dag, run)
        return TriggeredRun(dag_run_id=run, already=UNSET if fresh else True)
