"""What consumers have asked: counted in memory, handed over in deltas."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct


class Subject(NamedTuple):
    """Whose usage of what."""

    consumer: str
    application: str
    model: str


class Count(Struct):
    """How much. ``failed`` are answers of 500 and above; bytes are those of bodies."""

    requests: int = 0
    failed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def add(self, other: Count) -> None:
        """Count what another has counted too."""
        self.requests += other.requests
        self.failed += other.failed
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out


class Usage:
    """The counts since the start, and those that nobody has taken yet."""

    def __init__(self) -> None:
        self.total: dict[Subject, Count] = {}
        self._fresh: dict[Subject, Count] = {}

    def note(self, subject: Subject, status: int, bytes_in: int, bytes_out: int) -> None:
        """Count a request that was answered."""
        failed = int(status >= 500)
        for counts in (self.total, self._fresh):
            count = counts.get(subject)
            if count is None:
                count = counts[subject] = Count()
            count.requests += 1
            count.failed += failed
            count.bytes_in += bytes_in
            count.bytes_out += bytes_out

    def take(self) -> dict[Subject, Count]:
        """Return what was counted since the last time; who cannot keep it gives it back."""
        taken, self._fresh = self._fresh, {}
        return taken

    def give_back(self, taken: dict[Subject, Count]) -> None:
        """Have it taken again the next time."""
        for subject, count in taken.items():
            self._fresh.setdefault(subject, Count()).add(count)
