"""The nodes of the cluster, for its operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from mataserver.http import codec
from mataserver.http.request_credentials import check_query
from mataserver.http.routing import Body, Route, StatelessService

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.engines.ray import RayEngine
    from mataserver.metrics import Metrics


class NodeInfo(Struct):
    """A node: its total and free resources, and the model of each of its workers.

    ``total`` and ``free`` are Ray's resources: ``CPU``, ``GPU``, ``memory`` in bytes.
    """

    id: str
    name: str
    total: dict[str, float]
    free: dict[str, float]
    workers: list[str]


class ClusterService(StatelessService):
    """The cluster's service; exists only if a model has the engine ``ray``."""

    def __init__(self, engine: RayEngine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        metrics.before_render(self._count)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", "/v1/cluster", self._nodes, "The nodes of the Ray cluster", "server",
                  response=(Body(codec.JSON, list[NodeInfo]),), errors=(422, 503),
                  needs="models:read"),
        ]  # fmt: skip

    def _count(self) -> None:
        """Set the gauges; nodes without workers have none."""
        self._metrics.cluster_away.set(bool(self._engine.waiting))
        self._metrics.cluster_workers.clear()
        for worker in self._engine.workers:
            self._metrics.cluster_workers.labels(worker.node.name).inc()

    async def _nodes(self, request: web.Request) -> web.Response:
        check_query(request, ())
        found = await self._engine.nodes()
        return codec.respond(
            [NodeInfo(node.id, node.name, node.total, node.free, names) for node, names in found]
        )
