"""The interface of a job that the pipeline uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path


class Job(Protocol):
    """One job, as seen by its function.

    ``input`` holds the upload, ``work`` the state that a later attempt continues from, ``output``
    the files of the result. ``spec`` is a ``Spec`` or its JSON values, ``settings`` are the
    operator's: JSON values of ``Matchers``, None for their defaults.
    """

    id: str
    spec: Any
    settings: Any

    @property
    def input(self) -> Path:
        """The folder of the job's input."""

    @property
    def work(self) -> Path:
        """The folder that is kept between attempts."""

    @property
    def output(self) -> Path:
        """The folder of the result's files."""

    def report(self, stage: str, done: float = ..., total: float = ..., message: str = ...) -> None:
        """Report the progress of a stage. Raises when the job is to stop."""

    def check(self) -> None:
        """Raise when the job is to stop."""

    @property
    def stopping(self) -> bool:
        """Whether the job is to stop."""
