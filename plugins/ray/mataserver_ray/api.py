"""The nodes of the cluster, for its operators."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from msgspec import Struct

from mataserver import Body, Route, check_query
from mataserver_ray.gauges import ClusterGauges

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver import Context
    from mataserver_ray.broker_messages import Node
    from mataserver_ray.engine import RayEngine
    from mataserver_ray.worker import RayWorker


class NodeState(Enum):
    """What this server's heartbeats know of a node: Ray notices a loss later."""

    ALIVE = "alive"
    SILENT = "silent"
    LOST = "lost"


class NodeInfo(Struct):
    """A node: its total and free resources, and the model of each of its workers.

    ``total`` and ``free`` are Ray's resources: ``CPU``, ``GPU``, ``memory`` in bytes.
    """

    id: str
    name: str
    total: dict[str, float]
    free: dict[str, float]
    workers: list[str]
    state: NodeState


class ClusterService:
    """The cluster's service; it has a route only if a model has the engine ``ray``."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        engine: RayEngine | None = ctx.engine("ray")
        self._engine = engine
        self._gauges = ClusterGauges(lambda: ctx.engine("ray"))
        ctx.metrics.register(self._gauges)

    async def __aenter__(self) -> None:
        """Keep the gauges current; the server opens its engines."""
        self._ctx.tasks.spawn(self._gauges.keep_current, "list the nodes of the cluster")

    async def __aexit__(self, *exc: object) -> None:
        """Do nothing: the server closes its engines."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        engine = self._engine
        if engine is None:
            return []

        async def nodes(request: web.Request) -> web.Response:
            check_query(request, ())
            return self._ctx.http.respond([_describe(*each) for each in await engine.nodes()])

        return [
            Route("GET", "/v1/cluster", nodes, "The nodes of the Ray cluster", "server",
                  response=(Body("application/json", list[NodeInfo]),), errors=(422, 503),
                  needs="models:read"),
        ]  # fmt: skip


def _describe(node: Node, workers: list[RayWorker], is_lost: bool) -> NodeInfo:
    is_silent = any(worker.is_suspect for worker in workers)
    state = NodeState.LOST if is_lost else NodeState.SILENT if is_silent else NodeState.ALIVE
    names = sorted(worker.model for worker in workers)
    return NodeInfo(node.id, node.name, node.total, node.free, names, state)
