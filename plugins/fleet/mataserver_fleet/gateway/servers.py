"""The servers behind the gateway: the load and the health of each."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from mataserver_fleet.gateway.snapshot import Target

SLOW_START = 5.0
"""Seconds in which a server that came back gets ever more of its share."""
MIN_SHARE = 0.1
"""The part of its share that it begins with."""


class RequestTimer(Protocol):
    """A request whose time can be over before: as ``asyncio.Timeout``."""

    def expired(self) -> bool:
        """Whether its time is over."""

    def reschedule(self, when: float) -> None:
        """Have its time be over at ``when``."""


class Server:
    """One server.

    outstanding: requests that it has not answered yet.
    suspect:     a request to it failed, and no probe has succeeded or failed since.
    alive:       whether it answered the last probe at all.
    missed:      ``missed_probes`` is how many it has not answered since the last that it did,
                 ``missed_at`` when the last of them was over.
    unready:     paths of models that it does not serve now.
    late:        paths of models of which it did not say in time whether it serves them, and when
                 that was first found.
    models:      the models that it lists, where it is a mataserver.
    """

    __slots__ = (
        "_timers", "is_alive", "is_suspect", "late", "missed_at", "missed_probes", "models",
        "outstanding", "probe_now", "recovered_at", "unready"    )  # fmt: skip

    def __init__(self) -> None:
        self.outstanding = 0
        self.is_suspect = False
        self.is_alive = True
        self.missed_probes = 0
        self.missed_at = float("-inf")
        self.unready: set[str] = set()
        self.late: dict[str, float] = {}
        self.models: frozenset[str] = frozenset()
        self.recovered_at = 0.0
        self.probe_now = asyncio.Event()
        self._timers: set[RequestTimer] = set()

    def serves(self, path: str) -> bool:
        """Whether it serves a model, by the last probe."""
        return self.is_alive and path not in self.unready

    def begin(self, timer: RequestTimer | None = None) -> None:
        """Count a request; ``timer`` is ended when the server turns out to be dead."""
        self.outstanding += 1
        if timer is not None:
            self._timers.add(timer)

    def end(self) -> None:
        """Count a request as ended."""
        self.outstanding -= 1

    def release(self, timer: RequestTimer) -> None:
        """Forget a timer: its answer has begun, or it has failed."""
        self._timers.discard(timer)

    def mark_suspect(self) -> None:
        """Prefer other servers until a probe succeeds; probe it now."""
        self.is_suspect = True
        self.probe_now.set()

    def mark_alive(self, now: float) -> None:
        """Note that a probe was answered."""
        if self.is_suspect or not self.is_alive:
            self.recovered_at = now
        self.is_suspect, self.is_alive, self.missed_probes = False, True, 0

    def mark_dead(self) -> None:
        """Note that a probe was not answered; requests that can be sent elsewhere are ended."""
        self.is_alive = False
        now = asyncio.get_running_loop().time()
        for timer in self._timers:
            if not timer.expired():
                timer.reschedule(now)
        self._timers.clear()

    def set_ready(self, path: str, *, ready: bool, now: float) -> None:
        """Note whether a probe found a model ready."""
        if ready and path in self.unready:
            self.unready.discard(path)
            self.recovered_at = now
        elif not ready:
            self.unready.add(path)

    def share(self, now: float) -> float:
        """Return which part of its share it gets, up to 1: less for a while after it came back."""
        since = now - self.recovered_at
        return 1.0 if since >= SLOW_START else max(MIN_SHARE, since / SLOW_START)


class Servers:
    """All servers, by their URL. They outlive the snapshots that name them.

    ``clock`` gives seconds, ``choose`` one of several that are as good, ``draw`` a number from 0
    to 1, by which one that came back is left out of most requests at first. (As a weight its share
    would be a threshold: where little is outstanding it would be asked nothing for seconds.)
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        choose: Callable[[list[Target]], Target] = random.choice,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.clock = clock
        self._choose = choose
        self._draw = draw
        self._known: dict[str, Server] = {}

    def get(self, target: Target) -> Server:
        """Return the server of a target."""
        server = self._known.get(target.url)
        if server is None:
            server = self._known[target.url] = Server()
        return server

    def items(self) -> list[tuple[str, Server]]:
        """Return every server with its URL."""
        return list(self._known.items())

    def keep(self, urls: Container[str]) -> None:
        """Forget the servers that are not among ``urls``."""
        for gone in [url for url in self._known if url not in urls]:
            del self._known[gone]

    def pick(
        self, targets: Iterable[Target], path: str, tried: Container[str] = ()
    ) -> Target | None:
        """Return the least busy server that serves a model; None where none does.

        One that is doubted is asked only where there is no other.
        """
        serving = [t for t in targets if t.url not in tried and self.get(t).serves(path)]
        if len(serving) < 2:
            return serving[0] if serving else None
        sure = [each for each in serving if not self.get(each).is_suspect] or serving
        now, best, chosen = self.clock(), float("inf"), sure[:1]
        for each in [t for t in sure if self._is_drawn(self.get(t), now)] or sure:
            load = (self.get(each).outstanding + 1) / each.weight
            if load < best:
                best, chosen = load, [each]
            elif load == best:
                chosen.append(each)
        return self._choose(chosen) if len(chosen) > 1 else chosen[0]

    def _is_drawn(self, server: Server, now: float) -> bool:
        """Whether a server takes part in a request: one that came back in few at first."""
        share = server.share(now)
        return share >= 1.0 or self._draw() < share
