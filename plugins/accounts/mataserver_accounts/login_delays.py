"""Delays after failed log-ins, by name and address; no user can lock another out for good."""

from __future__ import annotations

import ipaddress
import time
from typing import TYPE_CHECKING

from mataserver import MataError

if TYPE_CHECKING:
    from collections.abc import Callable

FREE_FAILURES = 5
"""Failures that cost nothing: people mistype."""
MAX_DELAY = 60.0
FORGET_SECONDS = 900.0
MAX_ENTRIES = 10_000


class TooManyAttempts(MataError):
    """429: wait before the next try."""

    status = 429


class LoginDelays:
    """How long each (name, address) must wait. The waits double up to a minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}

    def check(self, name: str, address: str) -> None:
        """Raise ``TooManyAttempts`` while a try from there, for that name, must wait."""
        count, last = self._failures.get((name, address), (0, 0.0))
        wait = last + _pause(count) - self._clock()
        if wait > 0:
            raise TooManyAttempts("Too many failed log-ins: try again later", retry_after=wait)

    def count_failure(self, name: str, address: str) -> None:
        """Count a failure. A try is counted before its check: many may arrive together."""
        now = self._clock()
        count, last = self._failures.pop((name, address), (0, now))
        if now - last > FORGET_SECONDS:
            count = 0
        while len(self._failures) >= MAX_ENTRIES:
            del self._failures[next(iter(self._failures))]
        self._failures[name, address] = (count + 1, now)

    def clear(self, name: str, address: str) -> None:
        """Forget the failures from there."""
        self._failures.pop((name, address), None)


def client_network(address: str) -> str:
    """Return where an address is: itself, or of IPv6 the network of 64 bits that one client has."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if known.version == 4:
        return address
    mapped = known.ipv4_mapped
    return str(mapped or ipaddress.ip_network((int(known), 64), strict=False))


def _pause(count: int) -> float:
    return 0.0 if count < FREE_FAILURES else min(MAX_DELAY, float(2 ** (count - FREE_FAILURES)))
