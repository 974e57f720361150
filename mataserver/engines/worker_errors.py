"""Failures of jobs and workers, and whom each is attributed to."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from mataserver.errors import BadRequest, MataError, OutOfMemory
from mataserver.printing import printable

_MAX_RETRY_AFTER = 86_400.0
"""Upper bound of ``retry_after``, in seconds."""
_MAX_DETAIL_LENGTH = 10_000
"""Maximum length of a failure's ``detail``, in characters."""


class Failure(msgspec.Struct, frozen=True):
    """Why a job or a load failed; becomes a ``MataError`` on the server's side."""

    status: int
    detail: str
    retry_after: float | None = None
    lasting: bool = False

    @classmethod
    def of(cls, error: MataError) -> Failure:
        """Return the failure that carries an error over the wire."""
        return cls(error.status, error.detail, error.retry_after, error.lasting)

    def error(self, kind: type[MataError] = MataError) -> MataError:
        """Return the error that the client receives.

        A status outside 400..599 becomes 500: a failed model may not claim success or invent a
        status.
        """
        status = self.status if 400 <= self.status <= 599 else MataError.status
        later = self.retry_after
        if later is not None and not 0 <= later <= _MAX_RETRY_AFTER:  # rejects NaN, too
            later = None
        detail = printable(self.detail[:_MAX_DETAIL_LENGTH])  # it is logged, on one line
        error = kind(detail, status=status, retry_after=later)
        error.lasting = self.lasting
        return error


ABANDONED = Failure(503, "The request was abandoned before it was answered")
"""The failure of a job that was cancelled before its turn."""


class JobFailed(MataError):
    """The model rejected this one job, or failed on it; its worker continues."""


class WorkerDied(MataError):
    """The worker ended, hung or was killed with requests in flight; a new one can be started."""


class NodeDied(WorkerDied):
    """503: a worker was lost together with its node; its jobs can be retried on another node."""

    def __init__(self) -> None:
        super().__init__("The node of the model's worker was lost", status=503, retry_after=1)


class NotDispatchedError(WorkerDied):
    """503: the worker ended before it took the request.

    The request is not to blame, and can be retried on the next worker.
    """

    def __init__(self) -> None:
        super().__init__("The model's worker is gone", status=503, retry_after=1)


class WorkerReplacedError(MataError):
    """503: the worker was replaced because of another client's image; the job can be retried."""

    def __init__(self) -> None:
        super().__init__("The model's worker was replaced", status=503, retry_after=1)


class DecodeTimeoutError(BadRequest):
    """400: an image exceeded the decode timeout. ``job`` is its index in the batch."""

    def __init__(self, seconds: float, job: int) -> None:
        super().__init__(
            f"image takes too long to decode: over {seconds:g} s; save it as a plain JPEG or PNG"
        )
        self.job = job


class MemoryLimitError(OutOfMemory):
    """507: the worker exceeded its model's memory limit while it worked on this job."""

    def __init__(self) -> None:
        super().__init__("The model needed more memory than its max_ram_mb")


class Death(NamedTuple):
    """Why a worker exited unexpectedly; ``is_model_fault`` if the model is at fault."""

    reason: str
    is_model_fault: bool = True


_BLAMELESS = (DecodeTimeoutError, MemoryLimitError, WorkerReplacedError, NodeDied)
"""Why a worker ended, if the jobs in its queue are not to blame."""


def undispatched_error(answer: object) -> MataError:
    """Return the error for a job that a dead worker never received, by that worker's last answer.

    A job may move to the next worker more often if an image, not the model, ended its worker.
    """
    return WorkerReplacedError() if isinstance(answer, _BLAMELESS) else NotDispatchedError()
