"""Delays after failed log-ins, by name and address; no user can lock another out for good."""

from __future__ import annotations

import ipaddress
import time
from typing import TYPE_CHECKING, TypeVar

from mataserver import MataError

if TYPE_CHECKING:
    from collections.abc import Callable

K = TypeVar("K")
V = TypeVar("V")

FREE_FAILURES = 5
"""Failures that cost nothing: people mistype."""
FREE_FAILURES_OF_ADDRESS = 50
"""Failures of an address for whatever names, which cost nothing: many people may share it."""
REPEATED_SHARE = 0.02
"""What a failure counts against an address if it is beyond the free ones of its name.

Those are at most one a minute for a name. So a dozen programs with stale passwords that retry for
ever soon keep nobody else at their address out; yet it has 50 guesses a minute for all such names.
"""
RECOVERY_SECONDS = 60.0
"""After which one failure of an address is forgotten."""
MAX_DELAY = 60.0
FORGET_SECONDS = 900.0
MAX_ENTRIES = 10_000


class TooManyAttempts(MataError):
    """429: wait before the next try."""

    status = 429


class LoginDelays:
    """How long each (name, address), and each address, must wait. Waits double up to a minute.

    The limit of an address ends the guessing of one password for many names. It does not hold for
    a name that was logged in with from there: who shares an address cannot be locked out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}
        self._known: dict[tuple[str, str], None] = {}
        self._addresses: dict[str, tuple[float, float]] = {}

    def check(self, name: str, address: str) -> None:
        """Raise ``TooManyAttempts`` while a try from there, for that name, must wait."""
        count, last = self._failures.get((name, address), (0, 0.0))
        wait = last + _pause(count - FREE_FAILURES) - self._clock()
        if (name, address) not in self._known:
            failures, last = self._addresses.get(address, (0.0, 0.0))
            pause = _pause(int(failures) - FREE_FAILURES_OF_ADDRESS)
            wait = max(wait, last + pause - self._clock())
        if wait > 0:
            raise TooManyAttempts("Too many failed log-ins: try again later", retry_after=wait)

    def count_failure(self, name: str, address: str) -> float:
        """Count a failure; return what it counts against the address, for ``clear``.

        A try is counted before its check: many may arrive together.
        """
        now = self._clock()
        count, last = self._failures.get((name, address), (0, now))
        if now - last > FORGET_SECONDS:
            count = 0
        _set(self._failures, (name, address), (count + 1, now))
        share = 1.0 if count < FREE_FAILURES else REPEATED_SHARE
        failures, last = self._addresses.get(address, (0.0, now))
        failures = max(0.0, failures - (now - last) / RECOVERY_SECONDS)
        _set(self._addresses, address, (failures + share, now))
        return share

    def clear(self, name: str, address: str, share: float) -> None:
        """Forget the failures for a name from there, whose password was right."""
        self._failures.pop((name, address), None)
        _set(self._known, (name, address), None)
        self._take_back_share(address, share)

    def take_back(self, name: str, address: str, share: float) -> None:
        """Take a try back that could not be checked, which says nothing about its password."""
        count, last = self._failures.pop((name, address), (0, 0.0))
        if count > 1:
            _set(self._failures, (name, address), (count - 1, last))
        self._take_back_share(address, share)

    def _take_back_share(self, address: str, share: float) -> None:
        if address in self._addresses:
            failures, last = self._addresses[address]
            self._addresses[address] = (max(0.0, failures - share), last)


def _set(entries: dict[K, V], key: K, value: V) -> None:
    """Set the newest of at most ``MAX_ENTRIES``."""
    entries.pop(key, None)
    while len(entries) >= MAX_ENTRIES:
        del entries[next(iter(entries))]
    entries[key] = value


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


def _pause(beyond: int) -> float:
    """Return the wait after as many failures beyond those that are free."""
    return 0.0 if beyond < 0 else min(MAX_DELAY, 2.0 ** min(beyond, 6))
