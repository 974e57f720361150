"""Detection of packages that are installed while this process runs."""

from __future__ import annotations

import contextlib
import importlib
import os
import site
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SETTLING_SECONDS = 10.0
"""Seconds after a change for which an installation may still be in progress."""
CHECK_INTERVAL = 1.0
"""Interval of the checks in that time: each reads the entry points of all packages."""


class SiteDirectories:
    """The directories of ``sys.path``, watched by modification time.

    ``clock`` returns Unix seconds, like file times.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last_times = _times(sys.path)
        self._links = set(_links())
        self._checked_at = clock()

    def changed(self) -> bool:
        """Return whether packages may have been installed since; make them importable.

        A distribution's directory exists before its files, so for some seconds after a change every
        check, at most one per second, returns True.
        """
        times, now = _times(sys.path), self._clock()
        settling = max(times.values(), default=0) / 1e9 > now - SETTLING_SECONDS
        if times == self._last_times and not (
            settling and abs(now - self._checked_at) >= CHECK_INTERVAL
        ):
            return False
        self._last_times, self._checked_at = times, now
        self._follow_links()
        importlib.invalidate_caches()
        return True

    def _follow_links(self) -> None:
        """Process new ``.pth`` files, as created by editable installations."""
        for link in _links():
            if link not in self._links:
                self._links.add(link)
                site.addpackage(str(link.parent), link.name, known_paths=None)


def _times(paths: Iterable[str]) -> dict[str, int]:
    """Return each directory's modification time in nanoseconds; skip missing ones."""
    found = {}
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            found[path] = os.stat(path or ".").st_mtime_ns  # noqa: PTH116 - several times a second
    return found


def _links() -> list[Path]:
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    return [link for folder in folders for link in sorted(Path(folder).glob("*.pth"))]
