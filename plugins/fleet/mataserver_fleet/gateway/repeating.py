"""Inferences whose heads are those of others that were answered: programs send the same each time.

Whose key it is, what it asks and what of its head passes is known then; the server hands over the
body alone.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from mataserver import RepeatedClaim
    from mataserver_fleet.gateway.matching import Asked
    from mataserver_fleet.gateway.snapshot import Consumer

    Responder = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]
    Answer = Callable[["Answered", web.Request, bytes], Awaitable[web.StreamResponse]]
    Learn = Callable[[web.Request, RepeatedClaim], None]

MOST = 1_024
"""Heads that are known."""


class Answered(NamedTuple):
    """What the head of an inference asks, who asks it, and what of it passes."""

    asked: Asked
    consumer: Consumer
    passed: bytes


class KnownInferences:
    """What is known of heads, until another snapshot is followed.

    learn:   has the server know a head.
    answer:  answers a request whose head is known, with its body.
    limit:   bytes of the longest body that is kept; ``seconds``: that one may pause.
    """

    def __init__(self, learn: Learn, answer: Answer, limit: int, seconds: float) -> None:
        self.limit = limit
        self.seconds = seconds
        self._learn = learn
        self._answer = answer
        self._known: dict[int, Answered] = {}
        self._numbers = itertools.count()

    def learn(self, request: web.Request, found: Answered) -> None:
        """Know what the head of a request asks."""
        if len(self._known) >= MOST:
            self.forget()
        number = next(self._numbers)
        self._known[number] = found
        self._learn(request, _Repeated(self, number))

    def forget(self) -> None:
        """Judge the next request of each head anew."""
        self._known.clear()

    def knows(self, number: int) -> bool:
        """Whether a head is known still."""
        return number in self._known

    def responder(self, number: int) -> Responder:
        """Return what answers a request, also when it is forgotten while that arrives."""
        return functools.partial(self._answer, self._known[number])


class _Repeated(NamedTuple):
    """One head. The server may keep it for long: it holds nothing of a snapshot but a number."""

    of: KnownInferences
    number: int

    @property
    def limit(self) -> int:
        """Bytes of the longest body."""
        return self.of.limit

    @property
    def seconds(self) -> float:
        """How long a body may take before the gateway reads it as any other."""
        return self.of.seconds

    def is_current(self) -> bool:
        """Whether keys and routes are what they were."""
        return self.of.knows(self.number)

    def responder(self) -> Responder:
        """Return what answers one."""
        return self.of.responder(self.number)
