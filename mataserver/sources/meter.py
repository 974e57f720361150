"""What the children of pulls measure: the files that arrive, and the disk's room for more."""

from __future__ import annotations

import shutil
import threading
import time
from typing import TYPE_CHECKING, Self

from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mataserver.sources.messages import Progress

_POLL_SECONDS = 0.2
SPARE_BYTES = 32 * 1024 * 1024
"""Bytes of the disk that no pull takes."""


class NoSpaceError(MataError):
    """The disk has no room for a model; the message is for the client."""


def check_space(needed: int, folder: Path, model: str) -> None:
    """Raise ``NoSpaceError`` if the disk of ``folder`` has no room for more bytes of a model."""
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise NoSpaceError(
            f"not enough disk space for {model}: "
            f"{needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
        )


class Meter:
    """Reports a pull's progress while its context lasts: polls ``measure``, whatever writes."""

    def __init__(self, measure: Callable[[], Progress], report: Callable[[Progress], None]) -> None:
        self._measure = measure
        self._report = report
        self._last: Progress | None = None
        self._is_alive = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def alive(self) -> None:
        """Let the next look report, even if no size has changed. May be called often."""
        self._is_alive = True

    def _poll(self) -> None:
        stopped, pause = False, 0.0
        while not stopped:
            stopped = self._stop.wait(pause)
            began = time.monotonic()
            now = self._measure()
            if now != self._last or self._is_alive:
                self._last, self._is_alive = now, False
                self._report(now)
            pause = max(_POLL_SECONDS, 4 * (time.monotonic() - began))  # many files take long
