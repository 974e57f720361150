"""The job kind ``reconstruct``."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from mataserver import OutOfMemory
from mataserver_jobs import JobKind
from mataserver_jobs.disk import FULL
from mataserver_reconstruct import room
from mataserver_reconstruct.files import CLOUDS
from mataserver_reconstruct.spec import Spec
from mataserver_reconstruct.stages import STAGES

if TYPE_CHECKING:
    from mataserver_jobs import Job

NAME = "reconstruct"
ARCHIVE = "photos.zip"
"""The name of the uploaded file in a job's input."""


class ReconstructionSpec(Spec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job: ``file`` is what the client called its archive, ``images`` what was found in it."""

    file: str = ""
    images: int = 0


def reconstruct(job: Job) -> dict[str, Any]:
    """Reconstruct the uploaded photographs; return the figures.

    Raises ``MataError`` for errors that another attempt would not change: an input that is refused,
    and a full disk.
    """
    from mataserver_reconstruct import pipeline  # imports COLMAP: in the job's process only

    # The server waits for this process's end, and that is sooner if the interpreter does not search
    # all that was imported for cycles once more. What is made from here on is still finalised.
    gc.freeze()
    fields = job.spec.items()
    job.spec = {name: value for name, value in fields if name in Spec.__struct_fields__}
    (job.work / CLOUDS).unlink(missing_ok=True)  # of the result before a restart
    try:
        return pipeline.run(job)
    except (OSError, RuntimeError) as error:
        if room.is_missing(error, job.folder):
            raise OutOfMemory(FULL) from error
        raise


KIND = JobKind(
    name=NAME,
    run=reconstruct,
    spec=ReconstructionSpec,
    stages=STAGES,
    memory_mb=1_500,
    grace=60.0,  # for a cancelled job to write its partial result
    fixed=frozenset({"limits", "file", "images"}),
    resumes=True,  # the pipeline discards what other options make stale
)
