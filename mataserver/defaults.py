"""The models that are registered unasked: each once, by a mark of its own in the data directory.

Neither a model that was pulled before the first start nor a plugin that was installed after it
keeps a default away, and one that was removed does not come back.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mataserver.storage import told

if TYPE_CHECKING:
    import contextlib
    from pathlib import Path

DEFAULTS = ("rapidocr", "opencv-faces", "opencv-qr")
"""Backends whose weights come with their packages."""

FILE = "registered_defaults"


class Marks:
    """The defaults that had their turn: one name a line of a file in the data directory.

    Lines are only ever appended, so that several processes may do it at once.
    """

    def __init__(self, data_path: Path) -> None:
        self._path = data_path / FILE

    def waiting(self) -> list[str]:
        """Return the defaults that never had their turn. Raises ``MataError``."""
        with self._told("read"):
            try:
                marked = set(self._path.read_text(encoding="utf-8", errors="replace").split())
            except FileNotFoundError:
                marked = set()
        return [name for name in DEFAULTS if name not in marked]

    def add(self, name: str) -> None:
        """Note that a default had its turn. Raises ``MataError``."""
        with self._told("write"):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(name + "\n")

    def _told(self, verb: str) -> contextlib.AbstractContextManager[None]:
        return told(f"could not {verb} which defaults were registered", self._path)
