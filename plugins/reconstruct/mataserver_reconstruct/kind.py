"""The kind of jobs ``reconstruct``."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from mataserver import OutOfMemory
from mataserver_jobs import JobKind
from mataserver_jobs.disk import FULL, is_full
from mataserver_reconstruct.spec import Spec
from mataserver_reconstruct.stages import STAGES

if TYPE_CHECKING:
    from mataserver_jobs import Job

NAME = "reconstruct"
ARCHIVE = "photos.zip"
"""The file of a job's input that was sent."""
_ROOM = 4_000_000  # bytes: COLMAP says that it cannot write, and not why


class Order(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job: ``file`` is what the client called its archive, ``images`` what was found in it."""

    file: str = ""
    images: int = 0


def reconstruct(job: Job) -> dict[str, Any]:
    """Reconstruct what was sent; return the figures.

    Raises ``MataError`` for what no other attempt would change: an input that is refused, and a
    disk that is full.
    """
    from mataserver_reconstruct import pipeline  # brings COLMAP: in the job's process alone

    asked = job.spec.items()
    job.spec = {name: value for name, value in asked if name in Spec.__struct_fields__}
    try:
        return pipeline.run(job)
    except (OSError, RuntimeError) as error:
        full = isinstance(error, OSError) and is_full(error)
        if full or shutil.disk_usage(job.folder).free < _ROOM:
            raise OutOfMemory(FULL) from error
        raise


KIND = JobKind(
    name=NAME,
    run=reconstruct,
    spec=Order,
    stages=STAGES,
    memory_mb=1_500,
    grace=60.0,  # in which a job that is cancelled writes what it had reached
    fixed=frozenset({"limits", "file", "images"}),
)
