"""The engine ray: models on the nodes of a Ray cluster. docs/cluster.md describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import EngineSpec, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Context, EngineContext
    from mataserver_ray.api import ClusterService
    from mataserver_ray.engine import RayEngine


def make(ctx: EngineContext) -> RayEngine:
    """Return the engine, for the cluster that the server's settings name."""
    from mataserver_ray.engine import RayEngine  # imported late: few servers use a cluster

    options = ctx.options
    return RayEngine(options["address"], room=options["room"], silence=options["silence"])


@hookimpl
def engines() -> Iterable[EngineSpec]:
    """Return the engine; only the broker imports its package."""
    return [EngineSpec(name="ray", make=make, requires=("ray",), packages=("mataserver[ray]",))]


@hookimpl
def service(ctx: Context) -> ClusterService:
    """Return the service."""
    from mataserver_ray.api import ClusterService  # what only a server needs

    return ClusterService(ctx)
