"""Structure from motion: photographs in, camera poses and coloured point clouds out.

``run(job)`` is the whole of it and belongs into a process of its own: COLMAP is native code, and
its library must not be imported where a server runs (see ``native``). Importing this package, its
``spec``, ``archive``, ``stages``, ``drift``, ``matchers`` and ``api`` imports none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver import hookimpl
from mataserver_reconstruct.settings import Settings

if TYPE_CHECKING:
    from mataserver import Context
    from mataserver_reconstruct.api import ReconstructService
    from mataserver_reconstruct.job import Job


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.reconstruct``."""
    return Settings


@hookimpl
def brings() -> dict[str, tuple[str, ...]]:
    """Return the kind of jobs that the service has."""
    return {"jobs": ("reconstruct",)}


@hookimpl
def service(ctx: Context) -> ReconstructService:
    """Return the reconstruction API."""
    from mataserver_reconstruct.api import ReconstructService

    return ReconstructService(ctx)


def run(job: Job) -> dict[str, Any]:
    """Reconstruct what ``job.input`` shows into ``job.output``; return the result, JSON values.

    Raises ``BadRequest`` for an input that is refused, and whatever ``job`` raises to stop.
    """
    from mataserver_reconstruct import pipeline  # brings COLMAP: in the job's process alone

    return pipeline.run(job)
