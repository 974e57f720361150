"""Structure from motion: computes camera poses and coloured point clouds from photographs.

``run(job)`` does all of it and must run in a separate process: COLMAP is native code, and its
library must not be imported in a server's process (see ``native``). Importing this package, its
``spec``, ``archive``, ``stages``, ``drift``, ``matchers`` and ``api`` does not import it.
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
    """Return the job kind that the service provides."""
    return {"jobs": ("reconstruct",)}


@hookimpl
def service(ctx: Context) -> ReconstructService:
    """Return the reconstruction API."""
    from mataserver_reconstruct.api import ReconstructService

    return ReconstructService(ctx)


def run(job: Job) -> dict[str, Any]:
    """Reconstruct ``job.input`` into ``job.output``; return the result, JSON values.

    Raises ``BadRequest`` for an input that is refused, and whatever ``job`` raises to stop.
    """
    from mataserver_reconstruct import pipeline  # imports COLMAP: in the job's process only

    return pipeline.run(job)
