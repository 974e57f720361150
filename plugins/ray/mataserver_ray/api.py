"""The nodes of the cluster, for its operators."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mataserver import Body, Route, check_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiohttp import web
    from prometheus_client.core import Metric

    from mataserver import Context
    from mataserver_ray.engine import RayEngine


class NodeInfo(Struct):
    """A node: its total and free resources, and the model of each of its workers.

    ``total`` and ``free`` are Ray's resources: ``CPU``, ``GPU``, ``memory`` in bytes.
    """

    id: str
    name: str
    total: dict[str, float]
    free: dict[str, float]
    workers: list[str]


class ClusterService:
    """The cluster's service; it has a route only if a model has the engine ``ray``."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        engine: RayEngine | None = ctx.engine("ray")
        self._engine = engine
        ctx.metrics.register(Gauges(lambda: ctx.engine("ray")))

    async def __aenter__(self) -> None:
        """Do nothing: the server opens its engines."""

    async def __aexit__(self, *exc: object) -> None:
        """Do nothing: the server closes its engines."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        engine = self._engine
        if engine is None:
            return []

        async def nodes(request: web.Request) -> web.Response:
            check_query(request, ())
            found = await engine.nodes()
            return self._ctx.http.respond(
                [
                    NodeInfo(node.id, node.name, node.total, node.free, names)
                    for node, names in found
                ]
            )

        return [
            Route("GET", "/v1/cluster", nodes, "The nodes of the Ray cluster", "server",
                  response=(Body("application/json", list[NodeInfo]),), errors=(422, 503),
                  needs="models:read"),
        ]  # fmt: skip


class Gauges(Collector):
    """The workers of each node that has some, and whether the cluster is out of reach."""

    def __init__(self, engine: Callable[[], Any]) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges."""
        engine: RayEngine | None = self._engine()
        workers = GaugeMetricFamily(
            "mataserver_cluster_workers", "Workers on a Ray cluster.", labels=["node"]
        )
        away = GaugeMetricFamily(
            "mataserver_cluster_away", "Whether the Ray cluster is out of reach."
        )
        names = () if engine is None else (each.node.name for each in engine.workers)
        for node, count in Counter(names).items():
            workers.add_metric([node], count)
        away.add_metric([], engine is not None and bool(engine.waiting))
        yield workers
        yield away
