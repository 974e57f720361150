"""What the server answers besides results and models, as structs.

Fields that a newer server adds are ignored.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from mataserver_client.errors import MataError, Unavailable
from mataserver_client.results import InferResponse


class Health(Struct, frozen=True):
    """``GET /v1/health``."""

    status: str
    version: str
    gpu_available: bool


class ModelStatus(Struct, frozen=True):
    """What became of a model.

    status: "pulled", "ready", "unloaded", "not_loaded", "pinned", "unpinned", "not_pinned" or
            "removed".

    model:  its name.
    warnings: after a pull, what a person should know.
    """

    status: str
    model: str
    warnings: list[str] = []


class Session(Struct, frozen=True):
    """A streaming session; ``ws_url`` is where other clients connect to it."""

    session_id: str
    ws_url: str


class Job(Struct, frozen=True, kw_only=True):
    """A job. Times are Unix seconds, ``progress`` is percent, ``bytes_used`` is of its files.

    ``state`` is "queued", "running", "done", "failed" or "cancelled"; ``finished_at`` is None until
    its end, then ``result`` or ``error`` says how it ended.
    """

    id: str
    kind: str
    owner: str
    state: str
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


class JobCreated(Struct, frozen=True):
    """A job that began; a reconstruction's id has the other name."""

    id: str = ""
    job_id: str = ""


class JobFile(Struct, frozen=True):
    """A file of a job's result."""

    name: str


class JobFiles(Struct, frozen=True):
    """The files of a job's result."""

    files: list[JobFile]


class Token(Struct, frozen=True):
    """A piece of text that a model is making."""

    text: str


class Failure(Struct, frozen=True):
    """What ends a text that failed after it began."""

    detail: str
    retry_after: float | None = None

    def error(self) -> MataError:
        """Return it as an exception: ``Unavailable`` where asking again may succeed."""
        kind = MataError if self.retry_after is None else Unavailable
        return kind(self.detail, retry_after=self.retry_after)


class FrameError(Struct, frozen=True):
    """A frame of a stream that the server could not use; the stream goes on.

    ``frame_id`` is the number of the frame among those the stream was given, from 0, or None when
    the server names no frame. ``retry_after``: the seconds after which the same frame may succeed.
    """

    frame_id: int | None
    detail: str
    retry_after: float | None = None


StreamItem = InferResponse | FrameError
"""What a stream yields."""
