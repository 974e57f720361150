"""Which leases are over: those that were not renewed for a while, by this process's own clock.

A server that judged another's lease by the time of day would take it away as soon as their clocks
differ by more than the lease is long, or one of them is set: by a day at a machine's start, say.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T", bound=Hashable)


class _Seen(NamedTuple):
    """What a lease looked like, and for how many seconds it was seen to stand still."""

    state: object
    stood: float


class LeaseWatch:
    """Watches the leases of others. ``clock`` gives seconds that are never set."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._seen: dict[Hashable, _Seen] = {}
        self._looked: float | None = None

    def expired(self, leases: Mapping[T, object]) -> set[T]:
        """Return which leases have stood still for as long as they last.

        leases: all that there are now by their names, each with what is another value after each
                renewal. One that is seen for the first time is not over yet.

        Between two looks that are far apart, while the database could not be reached perhaps, no
        holder could renew either: at most half of what a lease lasts counts between two.
        """
        now = self._clock()
        passed = 0.0 if self._looked is None else min(now - self._looked, self._seconds / 2)
        self._looked = now
        before, self._seen = self._seen, {}
        for name, state in leases.items():
            known = before.get(name)
            stands = known is not None and known.state == state
            self._seen[name] = _Seen(state, known.stood + passed if known and stands else 0.0)
        return {name for name in leases if self._seen[name].stood >= self._seconds}
