"""Inferences whose heads repeat those of answered ones: programs send the same head each time.

The consumer, the route and the forwarded fields are known then; the server passes the body alone.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from mataserver import RepeatedClaim, Responder
    from mataserver_fleet.gateway.inspection import JsonPart
    from mataserver_fleet.gateway.matching import RouteMatch
    from mataserver_fleet.gateway.snapshot import Consumer

    RespondToHead = Callable[["KnownHead"], Responder]
    LearnHead = Callable[[web.Request, RepeatedClaim], None]


class KnownHead(NamedTuple):
    """An inference's parsed head: its route, consumer and forwarded header lines.

    kind:  the line of its body's type.
    part:  what of its body is JSON; None where all of it is looked at when it is here.
    """

    asked: RouteMatch
    consumer: Consumer
    passed: bytes
    kind: bytes = b""
    part: JsonPart | None = None


class KnownHeads:
    """What is known of heads, until another snapshot is followed.

    The server keeps as many as it likes: what it lets go of, or never took, is not kept here.

    learn:   has the server know a head.
    answer:  returns what answers a request whose head is known.
    limit:   bytes of the longest body that is kept; ``seconds``: that one may pause.
    """

    def __init__(self, learn: LearnHead, answer: RespondToHead, limit: int, seconds: float) -> None:
        self.limit = limit
        self.seconds = seconds
        self._learn = learn
        self._answer = answer
        self._known: weakref.WeakSet[_HeadClaim] = weakref.WeakSet()

    def learn(self, request: web.Request, found: KnownHead) -> None:
        """Know what the head of a request asks."""
        repeated = _HeadClaim(self, found)
        self._known.add(repeated)
        self._learn(request, repeated)

    def forget(self) -> None:
        """Authorise the next request of each head again, and those whose bodies still arrive."""
        for each in self._known:
            each.found = None
        self._known.clear()

    def responder(self, found: KnownHead) -> Responder:
        """Return what answers a request that is still current once its body is there."""
        return self._answer(found)


def owner_of(consumer: Consumer) -> str:
    """Return as whom the server counts a consumer: not as a caller of its own."""
    return f"gateway:{consumer.id}"


class _HeadClaim:
    """One head. The server may keep it for long: nothing of a snapshot is left when it is over."""

    __slots__ = ("__weakref__", "found", "of", "owner")

    def __init__(self, of: KnownHeads, found: KnownHead) -> None:
        self.of = of
        self.found: KnownHead | None = found
        self.owner = owner_of(found.consumer)

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
        return self.found is not None

    def responder(self) -> Responder:
        """Return what answers one; it is current."""
        assert self.found is not None  # noqa: S101 - nothing is awaited since that was asked
        return self.of.responder(self.found)
