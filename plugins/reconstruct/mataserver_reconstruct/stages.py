"""The stages of a reconstruction, and the share of each."""

from __future__ import annotations

EXTRACTING = "extracting"
MATCHING = "matching"
TRIANGULATING = "triangulating"
DECIMATING = "decimating"

STAGES = {
    EXTRACTING: (10.0, 30.0),
    MATCHING: (30.0, 70.0),
    TRIANGULATING: (70.0, 85.0),
    DECIMATING: (85.0, 100.0),
}
"""Percent at which a stage begins and ends, in order. A queued job is at 0."""


def percent(stage: str, done: float, total: float) -> float:
    """Return the total progress, 0 to 100, when a stage has done its part of ``total``."""
    begin, end = STAGES[stage]
    part = min(1.0, max(0.0, done / total)) if total > 0 else 0.0
    return begin + (end - begin) * part
