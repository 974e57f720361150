"""Where Python packages are installed: whether something came while this process runs."""

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

SETTLING = 10.0
"""Seconds after a change for which an installation may still be going on."""
PAUSE = 1.0
"""Seconds between two looks meanwhile: each costs reading the entry points of every package."""


class Sites:
    """The directories of ``sys.path``, looked at by the times of their last change.

    ``clock`` gives Unix seconds, as the times of files are.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._seen = _times(sys.path)
        self._links = set(_links())
        self._looked = clock()

    def changed(self) -> bool:
        """Whether something may have been installed since the last look, and make it importable.

        A distribution's directory is there before its files are, so for some seconds after a
        change every look, at most one a second, says yes.
        """
        times, now = _times(sys.path), self._clock()
        settling = max(times.values(), default=0) / 1e9 > now - SETTLING
        if times == self._seen and not (settling and abs(now - self._looked) >= PAUSE):
            return False
        self._seen, self._looked = times, now
        self._follow_links()
        importlib.invalidate_caches()
        return True

    def _follow_links(self) -> None:
        """Take in the ``.pth`` files that came: an editable installation is one."""
        for link in _links():
            if link not in self._links:
                self._links.add(link)
                site.addpackage(str(link.parent), link.name, known_paths=None)


def _times(paths: Iterable[str]) -> dict[str, int]:
    """Return when each directory was last changed, in nanoseconds; of what is none nothing."""
    found = {}
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            found[path] = os.stat(path or ".").st_mtime_ns  # noqa: PTH116 - several times a second
    return found


def _links() -> list[Path]:
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    return [link for folder in folders for link in sorted(Path(folder).glob("*.pth"))]
