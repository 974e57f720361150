"""Sequences: requests of a stateful model, which the server that began them must be sent.

A server knows a sequence by its number alone. So a sequence belongs to the consumer that began it:
another consumer that uses its number, by chance or on purpose, can neither continue nor restart it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from mataserver import Conflict

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_fleet.gateway.snapshot import Target

    KeyFinder = tuple[str, int | str]

MAX_SEQUENCES = 100_000
"""Sequences that are remembered."""
IDLE_SECONDS = 3600.0
"""Seconds after which a sequence that is not continued is forgotten."""
OWNED_SECONDS = 600.0
"""Seconds for which an idle sequence's number stays reserved for its consumer."""


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


class _SequenceRecord(NamedTuple):
    """A sequence: whose it is, where it is once it was answered, and when it was asked last."""

    consumer: int
    destination: Destination | None
    since: float


class Sequences:
    """Remembers which server has which sequence of a model, and whose it is.

    ``clock`` gives seconds. Of more than ``limit`` those are forgotten that were not continued for
    longest, of the consumer who has the most.
    """

    def __init__(self, clock: Callable[[], float], limit: int = MAX_SEQUENCES) -> None:
        self._clock = clock
        self._limit = limit
        self._records: dict[KeyFinder, _SequenceRecord] = {}
        self._by_consumer: dict[int, OrderedDict[KeyFinder, None]] = {}

    def find(self, model: str, step: SequenceStep, consumer: int) -> Destination | None:
        """Return the destination of a continued sequence; None for one that begins.

        Raises ``SequenceTaken``. One that begins is its consumer's from now on.
        """
        key, now = (model, step.sequence), self._clock()
        found = self._records.get(key)
        self._check_owner(found, consumer, now)
        if step.start:
            self._remember(key, _SequenceRecord(consumer, None, now))
            return None
        mine = found is not None and found.consumer == consumer and found.since + IDLE_SECONDS > now
        return found.destination if found is not None and mine else None

    def bind(self, model: str, step: SequenceStep, destination: Destination, consumer: int) -> None:
        """Bind a sequence, or forget it where this is its end. Raises ``SequenceTaken``."""
        key, now = (model, step.sequence), self._clock()
        self._check_owner(self._records.get(key), consumer, now)
        if step.end:
            self._forget(key)
        else:
            self._remember(key, _SequenceRecord(consumer, destination, now))

    def _check_owner(self, found: _SequenceRecord | None, consumer: int, now: float) -> None:
        if found is not None and found.consumer != consumer and found.since + OWNED_SECONDS > now:
            raise SequenceTaken(
                "sequence_id: another consumer's sequence uses it: choose a random one"
            )

    def _remember(self, key: KeyFinder, record: _SequenceRecord) -> None:
        self._forget(key)
        self._records[key] = record
        self._by_consumer.setdefault(record.consumer, OrderedDict())[key] = None
        if len(self._records) > self._limit:
            largest = max(self._by_consumer.values(), key=len)
            self._forget(next(iter(largest)))

    def _forget(self, key: KeyFinder) -> None:
        record = self._records.pop(key, None)
        if record is not None:
            own = self._by_consumer[record.consumer]
            del own[key]
            if not own:
                del self._by_consumer[record.consumer]
