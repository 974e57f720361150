"""What the pipeline needs of a job, whoever runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path


class Job(Protocol):
    """One job as its function sees it.

    ``input`` holds what was uploaded, ``work`` what a later attempt goes on with, ``output`` the
    files of the result. ``spec`` is a ``Spec`` or its JSON values, ``settings`` are the operator's:
    JSON values of ``Matchers``, None for their defaults.
    """

    id: str
    spec: Any
    settings: Any

    @property
    def input(self) -> Path:
        """What the job was given."""

    @property
    def work(self) -> Path:
        """What is kept from attempt to attempt."""

    @property
    def output(self) -> Path:
        """The files of the result."""

    def report(self, stage: str, done: float = ..., total: float = ..., message: str = ...) -> None:
        """Tell how far a stage is. Raises when the job is to stop."""

    def check(self) -> None:
        """Raise when the job is to stop."""

    @property
    def stopping(self) -> bool:
        """Whether the job is to stop."""
