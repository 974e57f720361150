"""Limits of each consumer: requests a minute, and requests a day."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from mataserver import MataError
from mataserver_fleet.gateway.usage import DAY

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from mataserver_fleet.gateway.snapshot import Consumer

MINUTE = 60.0
_GRANTED_UNSEEN = 20
"""A gateway asks what the others have granted once it has granted itself a part of what is left of
a quota: all gateways together a twentieth."""


class TooManyRequests(MataError):
    """429: the consumer is over its rate or quota."""

    status = 429


class Admission(NamedTuple):
    """The day to which a request counts, however late its answer is; when it began, in ticks."""

    day: int
    begun: float


class _Bucket:
    """What is left of a minute's requests; a new one is full."""

    __slots__ = ("tokens", "updated_at")

    def __init__(self, tokens: float, updated_at: float) -> None:
        self.tokens = tokens
        self.updated_at = updated_at

    def take(self, rate: float, now: float) -> float:
        """Take one; return 0, or the seconds until there is one again."""
        self.tokens = min(rate, self.tokens + (now - self.updated_at) * rate / MINUTE)
        self.updated_at = now
        if self.tokens < 1.0:
            return (1.0 - self.tokens) * MINUTE / rate
        self.tokens -= 1.0
        return 0.0


class RateLimiter:
    """Grants requests. ``clock`` gives Unix seconds: a day is one of UTC.

    ticks: seconds of a clock that nobody sets, by which a minute is measured: after the hour was
           put back a consumer would wait for an hour.

    gateways:    how many share the rates; each grants its part. The daily count is of all.
    settle_soon: set where the other gateways' requests should be asked for before it is time.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._ticks = ticks
        self.gateways = 1
        self.settle_soon = asyncio.Event()
        self._buckets: dict[int, _Bucket] = {}
        self._settled: dict[str, int] = {}
        self._unsettled: dict[str, int] = {}
        self._fresh: dict[str, int] = {}
        self._day = self.today()

    def admit(self, consumer: Consumer) -> Admission:
        """Count a request. Raises ``TooManyRequests`` for one that is too many."""
        self._begin_day()
        if consumer.quota is not None:
            self._check_quota(consumer.name, consumer.quota)
        if consumer.rate is not None:
            self._check_rate(consumer, consumer.rate)
        return self.count(consumer)

    def count(self, consumer: Consumer) -> Admission:
        """Count a request that is granted come what may, a connection of a session say."""
        name, quota = consumer.name, consumer.quota
        self._begin_day()
        # Also without a quota: it may be given one while the request is under way.
        self._unsettled[name] = self._unsettled.get(name, 0) + 1
        if quota is not None and self.gateways > 1:
            self._fresh[name] = fresh = self._fresh.get(name, 0) + 1
            left = quota - self._settled.get(name, 0) - self._unsettled[name]
            if fresh * self.gateways * _GRANTED_UNSEEN >= left:
                self.settle_soon.set()
        return Admission(self._day, self._ticks())

    def settle(self, used: dict[str, int], own: dict[str, int], day: int, gateways: int) -> None:
        """Update the counts of all gateways for a day.

        own: what this gateway has added to that since the last time: requests of that day that were
             answered. Those that are under way stay counted here.
        """
        self.gateways = max(1, gateways)
        self._fresh.clear()
        self._begin_day()
        if day != self._day:
            return
        self._settled = used
        for name, count in own.items():
            tokens = self._unsettled.get(name, 0) - count
            if tokens > 0:
                self._unsettled[name] = tokens
            else:
                self._unsettled.pop(name, None)

    def forget(self, known_ids: Container[int]) -> None:
        """Drop what is known of consumers that are not ``known_ids``."""
        for stale in [each for each in self._buckets if each not in known_ids]:
            del self._buckets[stale]

    def _check_rate(self, consumer: Consumer, rate: int) -> None:
        now, own = self._ticks(), max(1.0, rate / self.gateways)
        bucket = self._buckets.get(consumer.id)
        if bucket is None:
            bucket = self._buckets[consumer.id] = _Bucket(own, now)
        wait = bucket.take(own, now)
        if wait:
            raise TooManyRequests(f"More than {rate} requests a minute", retry_after=wait)

    def _begin_day(self) -> None:
        """Count anew where it is another day."""
        today = self.today()
        if today != self._day:
            self._day = today
            self._settled, self._unsettled = {}, {}

    def _check_quota(self, name: str, quota: int) -> None:
        if self._settled.get(name, 0) + self._unsettled.get(name, 0) >= quota:
            wait = (self._day + 1) * DAY - self._clock()
            raise TooManyRequests(
                f"The quota of {quota} requests a day is used up", retry_after=wait
            )

    def today(self) -> int:
        """Return the number of this day."""
        return int(self._clock() // DAY)
