"""A job without a server: folders, a progress callback, and a stop flag."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class JobStopped(BaseException):
    """Raised at the next report of a job that is to stop."""


class LocalJob:
    """One reconstruction on this machine.

    ``progress`` gets stage, done, total and message. ``stop`` may be called by any thread.
    """

    def __init__(
        self,
        folder: Path,
        source: Path,
        spec: Any,
        progress: Callable[[str, float, float, str], None] = lambda *_: None,
        name: str = "local",
        settings: Any = None,
    ) -> None:
        self.id = name
        self.spec = spec
        self.settings = settings
        self.input = source
        self.work = folder / "work"
        self.output = folder
        self._progress = progress
        self._stop = threading.Event()
        self.work.mkdir(parents=True, exist_ok=True)

    def stop(self) -> None:
        """Make the job stop at its next step."""
        self._stop.set()

    def report(self, stage: str, done: float = 0.0, total: float = 1.0, message: str = "") -> None:
        """Report the progress of a stage. Raises ``JobStopped`` when the job is to stop."""
        self.check()
        self._progress(stage, done, total, message)

    def check(self) -> None:
        """Raise ``JobStopped`` when the job is to stop."""
        if self._stop.is_set():
            raise JobStopped

    @property
    def stopping(self) -> bool:
        """Whether the job is to stop."""
        return self._stop.is_set()
