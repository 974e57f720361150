"""Kinds of jobs: what a plugin brings, and what its function sees while it runs."""

from __future__ import annotations

import inspect
import re
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mataserver import MataError, plain_call_problem
from mataserver_jobs.file_transfer import Parcel, Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType


OWN = ("infer",)
"""The kinds of jobs that the plugin itself has."""
KIND_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""What a kind may be called."""


class Cancelled(BaseException):
    """Raised in a job's function at its next report once the job is to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobKind:
    """One kind of job.

    name:      of the kind; the jobs' ``kind``.
    run:       a module-level function ``run(job) -> result`` that runs in a process of its own.
               What it returns, JSON values, is the result. A ``MataError`` that it raises fails the
               job with that sentence, and so does a full disk; any other error, and a death of the
               process, is tried again.
    spec:      the struct of what the job is asked.
    stages:    name to (percent at its begin, percent at its end), in order.
    threads:   how many threads numeric libraries may use in it.
    memory_mb: what it is expected to take, counted beside the models.
    grace:     seconds to stop after a cancellation.
    fixed:     the fields of ``spec`` that say what it is given: a restart leaves them.
    options:   the struct that a restart's options must fit, too: of what a new job may ask, where a
               stored ``spec`` may hold more. None: whatever fits ``spec``.
    resumes:   a restart leaves ``job.work``, too: ``run`` itself removes what the options of now
               make stale. Not after a failure, but that of a full disk.
    settings:  JSON values of the operator's, for ``job.settings``: those of now, not of when it
               was sent, and shown to nobody.
    told:      gives the sentence that ends a job which is done, from its result; "Done." without.
    check:     is given a ``spec`` that is well-formed, before a job is made or runs once more, and
               raises the ``MataError`` for what could not be done: whoever asks is told at once.

    Raises ``MataError`` for a kind whose jobs could not run: the plugin is then not used.
    """

    name: str
    run: Callable[[Job], Any]
    spec: type[Struct]
    stages: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    threads: int = 1
    memory_mb: int = 512
    grace: float = 10.0
    fixed: frozenset[str] = frozenset()
    options: type[Struct] | None = None
    resumes: bool = False
    settings: Any = None
    told: Callable[[Any], str] | None = None
    check: Callable[[Any], object] | None = None

    def __post_init__(self) -> None:
        """Raise ``MataError`` for a kind whose jobs could not run: they would all fail."""
        if not (isinstance(self.name, str) and KIND_NAME.fullmatch(self.name)):
            raise MataError(
                f"the kind of jobs {self.name!r}: name: letters, digits, dots, dashes and "
                "underscores, 64 at most"
            )
        label = f"the kind of jobs {self.name}"
        if not (inspect.isroutine(self.run) and self.run.__qualname__.isidentifier()):
            raise MataError(f"{label}: run must be a function at the top level of its module")
        for name, given in (("run", "job"), ("told", "result"), ("check", "spec")):
            if (function := getattr(self, name)) is None:
                continue
            if not callable(function):
                raise MataError(f"{label}: {name} must be a function")
            if problem := plain_call_problem(function, given):
                raise MataError(f"{label}: {name} {problem}")
        if not (isinstance(self.spec, type) and issubclass(self.spec, Struct)):
            raise MataError(f"{label}: spec must be a msgspec.Struct type")
        for stage, share in self.stages.items():
            if not _is_share(share):
                raise MataError(
                    f"{label}: the stage {stage!r} needs its first and last percent, from 0 to 100"
                )


def _is_share(given: object) -> bool:
    """Whether these are two percents, the lower one first."""
    return (
        isinstance(given, (tuple, list))
        and len(given) == 2
        and all(isinstance(each, (int, float)) for each in given)
        and 0 <= given[0] <= given[1] <= 100
    )


class Access(Struct, frozen=True):
    """How a job asks the server: its address, and a token of the job's owner for this attempt."""

    url: str
    token: str


class Assignment(Struct, frozen=True):
    """What a job's process is told first.

    Where it has not the folder of the jobs, ``given`` tells what follows of the job's input: then
    ``folder`` is empty, and its output is sent back before the end is told. Where another server
    may work in that folder later, ``lease`` is for how long the job is this one's, and another
    follows each time that it is longer.
    """

    id: str
    function: str
    spec: Any
    folder: str
    attempt: int
    access: Access | None = None
    settings: Any = None
    given: Parcel | None = None
    lease: LeaseRenewed | None = None


class LeaseRenewed(Struct, frozen=True, tag="lease"):
    """For how many ``seconds`` from now the job is this server's.

    It may be read late. ``clock`` names the clock by which the time ends at ``until``: a process
    that has the same one does not count from when it reads.
    """

    seconds: float
    clock: str
    until: float


class Report(Struct, frozen=True, tag="report"):
    """How far a job is within a stage: ``done`` of ``total``, and a sentence."""

    stage: str
    done: float
    total: float
    message: str


class Ended(Struct, frozen=True, tag="ended"):
    """How a job ended: ``how`` is done, failed, broken (an error of its code) or cancelled."""

    how: str
    result: Any = None
    error: str = ""


Message = Report | Ended | Parcel | Piece


class Job:
    """A job as its function sees it.

    ``folder`` is its own: ``input`` holds what was uploaded, ``work`` what a later attempt goes on
    with, ``output`` the files that its owner may download. ``attempt`` counts from 1.
    """

    def __init__(self, assignment: Assignment, spec: Any, send: Callable[[Message], None]) -> None:
        self.id = assignment.id
        self.spec = spec
        self.attempt = assignment.attempt
        self.access = assignment.access
        self.settings = assignment.settings
        self.folder = Path(assignment.folder)
        self._send = send
        self._stop = threading.Event()
        for each in (self.input, self.work, self.output):
            each.mkdir(parents=True, exist_ok=True)

    @property
    def input(self) -> Path:
        """What the job was given. Kept for a restart with other options."""
        return self.folder / "input"

    @property
    def work(self) -> Path:
        """What is kept from attempt to attempt, and no longer."""
        return self.folder / "work"

    @property
    def output(self) -> Path:
        """The files of the result."""
        return self.folder / "output"

    def report(self, stage: str, done: float = 0.0, total: float = 1.0, message: str = "") -> None:
        """Tell how far the job is. Raises ``Cancelled`` when it is to stop."""
        self.check()
        self._send(Report(stage, done, total, message))

    def check(self) -> None:
        """Raise ``Cancelled`` when the job is to stop."""
        if self._stop.is_set():
            raise Cancelled

    @property
    def stopping(self) -> bool:
        """Whether the job is to stop: for code that must not raise."""
        return self._stop.is_set()

    def listen(self) -> None:
        """Have SIGTERM ask the job to stop."""
        signal.signal(signal.SIGTERM, self._asked)

    def _asked(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()
