"""Usage of consumers: counted in memory, taken in deltas."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec import Struct

from mataserver import LoopHistogram
from mataserver_fleet.gateway.failures import Failures

DAY = 86_400.0


class Subject(NamedTuple):
    """Whose usage of what."""

    consumer: str
    application: str
    model: str


class UsageCount(Struct):
    """How much. ``failed`` are answers of 500 and above; bytes are those of bodies."""

    requests: int = 0
    failed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def add(self, other: UsageCount) -> None:
        """Count what another has counted too."""
        self.requests += other.requests
        self.failed += other.failed
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out


class Usage:
    """The counts since the start, and by their day in UTC those not yet taken.

    Days are numbered from 1970.
    """

    def __init__(self) -> None:
        self.total: dict[Subject, UsageCount] = {}
        self.latencies = LoopHistogram(
            "mataserver_gateway_request_seconds",
            "Time from a request's head, or from its body where that is gathered, to its answer.",
            ("application", "model"),
        )
        self.failures = Failures()
        self._pending: dict[tuple[int, Subject], UsageCount] = {}

    def note(
        self,
        day: int,
        subject: Subject,
        status: int,
        bytes_in: int,
        bytes_out: int,
        seconds: float | None = None,
        *,
        reason: str = "",
    ) -> None:
        """Count a request of a day that was answered, and the time that it took, if it is known.

        ``reason`` is the gateway's, where it has answered with an error of its own.
        """
        if status >= 400:
            self.failures.note(status, subject, reason)
        if seconds is not None:
            self.latencies.observe(seconds, subject.application, subject.model)
        self.add(day, subject, UsageCount(1, int(status >= 500), bytes_in, bytes_out))

    def add(self, day: int, subject: Subject, one: UsageCount) -> None:
        """Count for a day what belongs to requests that were counted before, or a request."""
        self.total.setdefault(subject, UsageCount()).add(one)
        key = (day, subject)
        pending = self._pending.get(key)
        if pending is None:
            self._pending[key] = msgspec.structs.replace(one)
        else:
            pending.add(one)

    @property
    def is_pending(self) -> bool:
        """Whether there is something to take."""
        return bool(self._pending)

    def take(self) -> dict[tuple[int, Subject], UsageCount]:
        """Return what was counted since the last time."""
        taken, self._pending = self._pending, {}
        return taken
