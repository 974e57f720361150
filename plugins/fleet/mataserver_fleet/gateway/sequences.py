"""Sequences: requests of a stateful model, which the server that began them must be sent.

A server knows a sequence by its number alone, whoever asks. So one that a consumer has begun is
theirs: who hits on its number by chance or on purpose neither goes on with it nor begins it anew.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from mataserver import Conflict

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_fleet.gateway.snapshot import Target

    KeyFinder = tuple[str, int | str]

MOST = 100_000
"""Sequences that are remembered."""
IDLE = 3600.0
"""Seconds after which a sequence that is not continued is forgotten."""
HELD = 600.0
"""Seconds for which the number of one that is not continued is nobody else's."""


class SequenceTaken(Conflict):
    """409: another consumer's sequence has this number."""


class SequenceStep(NamedTuple):
    """A request of a sequence."""

    sequence: int | str
    start: bool
    end: bool


class Destination(NamedTuple):
    """What a sequence is bound to."""

    target: Target
    version: str


class _Known(NamedTuple):
    """A sequence: whose it is, where it is once it was answered, and when it was asked last."""

    consumer: int
    pin: Destination | None
    since: float


class Sequences:
    """Remembers which server has which sequence of a model, and whose it is.

    ``clock`` gives seconds. Of more than ``most`` those are forgotten that were not continued for
    longest, of the consumer who has the most.
    """

    def __init__(self, clock: Callable[[], float], most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._known: dict[KeyFinder, _Known] = {}
        self._of: dict[int, OrderedDict[KeyFinder, None]] = {}

    def find(self, model: str, step: SequenceStep, consumer: int) -> Destination | None:
        """Return what a sequence that goes on is bound to; None for one that begins.

        Raises ``SequenceTaken``. One that begins is its consumer's from now on.
        """
        key, now = (model, step.sequence), self._clock()
        found = self._known.get(key)
        self._check(found, consumer, now)
        if step.start:
            self._keep(key, _Known(consumer, None, now))
            return None
        mine = found is not None and found.consumer == consumer and found.since + IDLE > now
        return found.pin if found is not None and mine else None

    def bind(self, model: str, step: SequenceStep, pin: Destination, consumer: int) -> None:
        """Bind a sequence, or forget it where this is its end. Raises ``SequenceTaken``."""
        key, now = (model, step.sequence), self._clock()
        self._check(self._known.get(key), consumer, now)
        if step.end:
            self._drop(key)
        else:
            self._keep(key, _Known(consumer, pin, now))

    def _check(self, found: _Known | None, consumer: int, now: float) -> None:
        if found is not None and found.consumer != consumer and found.since + HELD > now:
            raise SequenceTaken(
                "sequence_id: another consumer's sequence has it now: take one at random"
            )

    def _keep(self, key: KeyFinder, known: _Known) -> None:
        self._drop(key)
        self._known[key] = known
        self._of.setdefault(known.consumer, OrderedDict())[key] = None
        if len(self._known) > self._most:
            largest = max(self._of.values(), key=len)
            self._drop(next(iter(largest)))

    def _drop(self, key: KeyFinder) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            own = self._of[known.consumer]
            del own[key]
            if not own:
                del self._of[known.consumer]
