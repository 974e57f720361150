"""The fleet in ``GET /metrics``, of the server that looks after the Tritons: no sum doubles.

A collector must not wait for the database: its values are a few seconds old at most.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from mataserver_fleet.tables import COUNTS, MODELS, PLACEMENTS, TRITONS
from mataserver_fleet.tritons import TritonReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client import Metric

    from mataserver_fleet.store import Store

_TRITON, _PLACE = ("triton",), ("model", "triton")
_COUNTED = ("model", "version", "triton")


MAX_AGE_SECONDS = 6.0
"""Seconds for which what was read is shown: a server that is cut off from the database is not told
that another one looks after the Tritons by now."""


class TritonMetrics:
    """A collector. It has no samples before the first ``read`` and after ``forget``.

    ``clock`` gives seconds that are never set.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._read_at = float("-inf")
        self._tritons: Sequence[Any] = ()
        self._placements: Sequence[Any] = ()
        self._counts: Sequence[Any] = ()

    async def read(self, store: Store) -> None:
        """Read how the fleet is. Raises ``Busy``."""
        begun = self._clock()
        name = sa.func.coalesce(TRITONS.c.name, sa.cast(COUNTS.c.triton_id, sa.String))
        of_model = MODELS.c.id == COUNTS.c.model_id
        counted = (
            sa.select(MODELS.c.name, COUNTS.c.version, name, COUNTS.c.inferences,
                      COUNTS.c.executions)
            .join(MODELS, of_model)
            .outerjoin(TRITONS, TRITONS.c.id == COUNTS.c.triton_id)
        )  # fmt: skip
        placed = (
            sa.select(MODELS.c.name, TRITONS.c.name, PLACEMENTS.c.state, PLACEMENTS.c.done,
                      PLACEMENTS.c.generation)
            .join(MODELS, MODELS.c.id == PLACEMENTS.c.model_id)
            .join(TRITONS, TRITONS.c.id == PLACEMENTS.c.triton_id)
            .where(PLACEMENTS.c.wanted)
        )  # fmt: skip
        async with store.read() as connection:
            seen = sa.select(TRITONS.c.name, TRITONS.c.state, TRITONS.c.seen)
            self._tritons = (await connection.execute(seen)).all()
            self._placements = (await connection.execute(placed)).all()
            self._counts = (await connection.execute(counted)).all()
        self._read_at = begun

    def forget(self) -> None:
        """Drop all samples: another server supervises the Tritons."""
        self._tritons = self._placements = self._counts = ()

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the series are known at collection."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the figures; none that are old."""
        if self._clock() - self._read_at > MAX_AGE_SECONDS:
            self.forget()
        up = GaugeMetricFamily("mataserver_fleet_triton_up", "Whether it is ready.", labels=_TRITON)
        used = GaugeMetricFamily(
            "mataserver_fleet_gpu_memory_used_bytes",
            "Memory in use on a Triton's GPU.",
            labels=("triton", "gpu"),
        )
        states = dict[str, str]()
        for name, state, seen in self._tritons:
            states[name] = state
            up.add_metric([name], float(state == "ready"))
            for gpu in msgspec.json.decode(seen, type=TritonReport).gpus:
                if gpu.used is not None:
                    used.add_metric([name, gpu.id], gpu.used)
        ready = GaugeMetricFamily(
            "mataserver_fleet_model_ready", "Whether a model is ready where wanted.", labels=_PLACE
        )
        for model, triton, state, done, generation in self._placements:
            settled = state == "ready" and done == generation and states.get(triton) == "ready"
            ready.add_metric([model, triton], float(settled))
        asked = CounterMetricFamily(
            "mataserver_fleet_inferences", "Inferences that Tritons counted.", labels=_COUNTED
        )
        run = CounterMetricFamily(
            "mataserver_fleet_executions", "Executions that Tritons counted.", labels=_COUNTED
        )
        for model, version, triton, inferences, executions in self._counts:
            asked.add_metric([model, str(version), triton], inferences)
            run.add_metric([model, str(version), triton], executions)
        yield from (up, used, ready, asked, run)
