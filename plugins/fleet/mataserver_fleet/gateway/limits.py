"""How much each consumer may ask: requests a minute, and requests a day."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mataserver import MataError

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from mataserver_fleet.gateway.snapshot import Consumer

MINUTE, DAY = 60.0, 86_400.0


class TooMany(MataError):
    """429: more than the consumer may ask now."""

    status = 429


class _Bucket:
    """What is left of a minute's requests; a new one is full."""

    __slots__ = ("left", "when")

    def __init__(self, left: float, when: float) -> None:
        self.left = left
        self.when = when

    def take(self, rate: float, now: float) -> float:
        """Take one; return 0, or the seconds until there is one again."""
        self.left = min(rate, self.left + (now - self.when) * rate / MINUTE)
        self.when = now
        if self.left < 1.0:
            return (1.0 - self.left) * MINUTE / rate
        self.left -= 1.0
        return 0.0


class Limits:
    """Grants requests. ``clock`` gives Unix seconds: a day is one of UTC.

    used: what every gateway has counted today for a consumer before, by its id.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._buckets: dict[int, _Bucket] = {}
        self._used: dict[int, int] = {}
        self._day = self._today()

    def admit(self, consumer: Consumer, gateways: int = 1) -> None:
        """Count a request. Raises ``TooMany`` for one that is too many.

        Each of several gateways grants its share of the rate; the day's count is everybody's.
        """
        if consumer.quota is not None:
            self._check_quota(consumer, consumer.quota)
        if consumer.rate is not None:
            self._check_rate(consumer, max(1.0, consumer.rate / gateways))
        if consumer.quota is not None:
            self._used[consumer.id] = self._used.get(consumer.id, 0) + 1

    def restore(self, used: dict[int, int], day: int) -> None:
        """Know what was counted on a day, by consumer, instead of what is known here."""
        if day == self._today():
            self._used, self._day = dict(used), day

    def forget(self, kept: Container[int]) -> None:
        """Drop what is known of consumers that are not ``kept``."""
        for known in (self._buckets, self._used):
            for gone in [each for each in known if each not in kept]:
                del known[gone]

    def _check_rate(self, consumer: Consumer, rate: float) -> None:
        now = self._clock()
        bucket = self._buckets.get(consumer.id)
        if bucket is None:
            bucket = self._buckets[consumer.id] = _Bucket(rate, now)
        wait = bucket.take(rate, now)
        if wait:
            raise TooMany(f"More than {consumer.rate} requests a minute", retry_after=wait)

    def _check_quota(self, consumer: Consumer, quota: int) -> None:
        today = self._today()
        if today != self._day:
            self._day = today
            self._used.clear()
        if self._used.get(consumer.id, 0) >= quota:
            wait = (today + 1) * DAY - self._clock()
            raise TooMany(f"The quota of {quota} requests a day is used up", retry_after=wait)

    def _today(self) -> int:
        return int(self._clock() // DAY)
