"""Measures the stages of a request."""

from __future__ import annotations

import time


class Stopwatch:
    """Milliseconds per stage, starting at construction."""

    def __init__(self) -> None:
        self._begun = self._last = time.perf_counter()
        self._stages: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage."""
        now = time.perf_counter()
        self._stages[stage] = self._stages.get(stage, 0.0) + (now - self._last) * 1e3
        self._last = now

    def total(self) -> float:
        """Return the milliseconds since construction."""
        return round((time.perf_counter() - self._begun) * 1e3, 3)

    def header(self) -> str:
        """Return the stages as the value of a ``Server-Timing`` header."""
        return ", ".join(f"{stage};dur={spent:.3f}" for stage, spent in self._stages.items())
