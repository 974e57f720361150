"""The cluster in ``/metrics``: its nodes, what they have free, and what is on them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mataserver import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.core import Metric

    from mataserver_ray.broker_messages import Node
    from mataserver_ray.engine import RayEngine

REFRESH_SECONDS = 5.0
"""The interval at which the nodes are listed: a scrape must not wait for Ray."""
MAX_NODES = 200
"""Maximum number of node names in the metrics; the rest are counted together."""
OTHERS = "(others)"
"""The label of the nodes above ``MAX_NODES``."""
RESOURCES = {
    "CPU": ("mataserver_cluster_cpus", "Processors of a Ray cluster's nodes."),
    "GPU": ("mataserver_cluster_gpus", "GPUs of a Ray cluster's nodes."),
    "memory": ("mataserver_cluster_memory_bytes", "Memory of a Ray cluster's nodes."),
}

log = logging.getLogger("mataserver.ray")


class ClusterGauges(Collector):
    """The gauges of the cluster of ``engine()``; none without such an engine.

    Nodes of the same name, as several on one machine have, are counted together.
    """

    def __init__(
        self, engine: Callable[[], RayEngine | None], every: float = REFRESH_SECONDS
    ) -> None:
        self._engine = engine
        self._every = every
        self._nodes: list[Node] = []
        self._failed = ""

    async def keep_current(self) -> None:
        """List the nodes again and again; without a cluster, or its answer, there are none."""
        while True:
            self._nodes = await self._listed()
            await asyncio.sleep(self._every)

    async def _listed(self) -> list[Node]:
        try:
            engine = self._engine()
            # The engine itself connects: to ask before it has would only wait.
            listed = engine is not None and not engine.waiting
            found = await engine.cluster.nodes() if engine and listed else []
        except Unavailable:
            return []
        except Exception as error:  # whatever it is: old figures must not stay
            if self._failed != repr(error):  # one that stays is told once
                log.exception("could not list the nodes of the cluster")
            self._failed = repr(error)
            return []
        self._failed = ""
        return found

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges."""
        engine = self._engine()
        if engine is None:
            return
        away = GaugeMetricFamily(
            "mataserver_cluster_away", "Whether the Ray cluster is out of reach."
        )
        away.add_metric([], bool(engine.waiting))
        yield away
        workers = GaugeMetricFamily(
            "mataserver_cluster_workers", "Workers on a Ray cluster.", labels=["node"]
        )
        for node, count in Counter(each.node.name for each in engine.workers).items():
            workers.add_metric([node], count)
        yield workers
        yield from self._resources()

    def _resources(self) -> Iterable[Metric]:
        named = sorted({node.name for node in self._nodes})[:MAX_NODES]
        for resource, (metric, text) in RESOURCES.items():
            sums: defaultdict[tuple[str, str], float] = defaultdict(float)
            for node in self._nodes:
                name = node.name if node.name in named else OTHERS
                sums[name, "total"] += node.total.get(resource, 0)
                sums[name, "free"] += node.free.get(resource, 0)
            gauge = GaugeMetricFamily(metric, text, labels=["node", "kind"])
            for labels, amount in sums.items():
                gauge.add_metric(labels, amount)
            yield gauge
