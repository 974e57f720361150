"""A job as the table holds it."""

from __future__ import annotations

import re
from typing import Any, Literal

from msgspec import Struct

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_id(text: str) -> bool:
    """Whether a text may be an id. Databases, and the names of files, do not take every text."""
    return _ID.fullmatch(text) is not None


class Record(Struct, frozen=True, kw_only=True):
    """One job.

    kind:            what it does: the name of a ``JobKind``.
    owner:           the id of the principal whose it is.
    stage:           what it does now, in the kind's own words; at the end the state.
    progress:        percent, 0 to 100; it never falls.
    message:         a sentence for people.
    spec, result:    its specification and its result, as JSON values.
    deaths:          how often its own process died; bounded, since it may be the job's fault.
    losses:          how often its server was lost; bounded too, and counted apart.
    cancel:          whether it is to stop.
    holder, claim:   which server runs it, and the number of the claim: an update by an older one
                     changes nothing.
    lease_until:     another value after each renewal of the lease: the holder's clock and the
                     seconds that the lease lasts.
    expires_at:      when it goes by the clock at its end, for people.
    kept_until:      when it goes: seconds of ``LivedTime``.
    bytes_used:      what its folder takes on the disk.
    """

    id: str
    kind: str
    owner: str
    state: State
    stage: str
    progress: float
    message: str
    spec: Any
    result: Any = None
    error: str | None = None
    deaths: int = 0
    losses: int = 0
    cancel: bool = False
    holder: str | None = None
    claim: int = 0
    lease_until: float | None = None
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    expires_at: float | None = None
    kept_until: float | None = None
    idempotency_key: str | None = None
    bytes_used: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in ENDED

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        return self.deaths + self.losses + 1
