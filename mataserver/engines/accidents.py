"""What goes wrong with jobs and workers, and whose fault it is."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from mataserver.errors import BadRequest, MataError, OutOfMemory

_LATEST = 86_400.0
"""Seconds after which a client may at most be told to come back."""
_MOST_WORDS = 10_000
"""Characters of a sentence that says why something failed."""


class Failure(msgspec.Struct, frozen=True):
    """Why a job or a load failed; becomes a ``MataError`` on the server's side."""

    status: int
    detail: str
    retry_after: float | None = None
    lasting: bool = False

    @classmethod
    def of(cls, error: MataError) -> Failure:
        """Return the failure that an error is told as."""
        return cls(error.status, error.detail, error.retry_after, error.lasting)

    def error(self, kind: type[MataError] = MataError) -> MataError:
        """Return the error that a client is told.

        A model that says that all is well, or a status of its own making, has failed: 500.
        """
        status = self.status if 400 <= self.status <= 599 else MataError.status
        later = self.retry_after
        if later is not None and not 0 <= later <= _LATEST:  # nor is it a number
            later = None
        detail = self.detail[:_MOST_WORDS]
        if not detail.isprintable():  # it goes into the log, where it must stay one line
            detail = "".join(each if each.isprintable() else " " for each in detail)
        error = kind(detail, status=status, retry_after=later)
        error.lasting = self.lasting
        return error


class JobFailed(MataError):
    """The model refused this very job, or failed on it; its worker goes on."""


class WorkerDied(MataError):
    """The worker ended, hung or was killed while it held a request; a new one can be started."""


class NodeDied(WorkerDied):
    """503: a worker was lost with its node; no job of it is to blame, and may go to another one."""

    def __init__(self) -> None:
        super().__init__("The node of the model's worker was lost", status=503, retry_after=1)


class Displaced(MataError):
    """503: the worker was replaced for somebody else's image; the job can go to the next one."""

    def __init__(self) -> None:
        super().__init__("The model's worker was replaced", status=503, retry_after=1)


class Spoilt(BadRequest):
    """400: an image that keeps the decoder busy for too long. ``job`` is its place in its batch."""

    def __init__(self, seconds: float, job: int) -> None:
        super().__init__(
            f"image takes too long to decode: over {seconds:g} s; save it as a plain JPEG or PNG"
        )
        self.job = job


class Overgrown(OutOfMemory):
    """507: the worker held more memory than its model may have, while it worked on this job."""

    def __init__(self) -> None:
        super().__init__("The model needed more memory than its max_ram_mb")


class Death(NamedTuple):
    """How a worker ended by itself; ``blamed`` when that is the model's fault."""

    reason: str
    blamed: bool = True
