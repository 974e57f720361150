"""Jobs as the API shows them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from mataserver_jobs.record import State

if TYPE_CHECKING:
    from collections.abc import Collection

    from mataserver_jobs.record import Record


class JobView(Struct, frozen=True, kw_only=True):
    """One job. Times are Unix seconds, ``progress`` is percent, ``bytes_used`` is of its files."""

    id: str
    kind: str
    owner: str
    state: State
    stage: str
    progress: float
    message: str
    spec: Any
    result: Any
    error: str | None
    attempt: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    expires_at: float | None
    bytes_used: int

    @classmethod
    def of(cls, record: Record) -> JobView:
        """Return what is shown of a job."""
        return cls(**{name: getattr(record, name) for name in cls.__struct_fields__})

    @property
    def tag(self) -> str:
        """Which state of the job it shows: the id of its event."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


class ListedJob(JobView, frozen=True, kw_only=True):
    """A job of a list, without the fields that were left out by ``omit``."""

    spec: Any | UnsetType = UNSET
    result: Any | UnsetType = UNSET

    @classmethod
    def without(cls, record: Record, omitted: Collection[str]) -> ListedJob:
        """Return what a list shows of a job; ``omitted`` is of ``OMITTABLE``."""
        shown = (name for name in cls.__struct_fields__ if name not in omitted)
        return cls(**{name: getattr(record, name) for name in shown})


class JobList(Struct, frozen=True):
    """A page of jobs, newest first; ``total`` is how many there are in all.

    ``next_cursor`` gives the next page, where there is one.
    """

    jobs: list[ListedJob]
    total: int
    limit: int
    offset: int
    next_cursor: str | UnsetType = UNSET


class FileView(Struct, frozen=True):
    """A file of a job's result. ``size`` in bytes, ``modified`` in Unix seconds."""

    name: str
    size: int
    modified: float


class FileList(Struct, frozen=True):
    """The files of a job's result."""

    files: list[FileView]


class Restart(Struct, frozen=True, forbid_unknown_fields=True):
    """Options that a restarted job has in place of those it had; the others stay."""

    spec: dict[str, Any] = {}
