"""Ends consumers' long-lived streams once they are no longer authorised.

A request is authorised when it arrives. For streams of hours that is not enough: a key is
revoked or replaced, a consumer unlinked, a route taken away.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from mataserver import MataError
from mataserver_fleet.gateway.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mataserver_fleet.gateway.snapshot import Consumer, Place

    EndStream = Callable[[MataError], None]


class InvalidKey(MataError):
    """401: no key of a consumer."""

    status = 401


class NotLinked(MataError):
    """403: a consumer that the application does not know."""

    status = 403


class Unlinked(NotLinked):
    """403: a request that was not let in, of a consumer to an application that it may not use."""

    def __init__(self, consumer: str, application: str) -> None:
        super().__init__(f"{consumer} may not use this application")
        self.consumer = consumer
        self.application = application


class Grant(NamedTuple):
    """An open stream: its consumer, application, model and protocol."""

    consumer: Consumer
    application: str
    model: str
    protocol: str


class ConsumerGrants:
    """Checks the open streams against each new snapshot, and ends the revoked ones."""

    def __init__(self) -> None:
        self._snapshot = Snapshot()
        self._holds: dict[EndStream, Grant] = {}

    @contextlib.contextmanager
    def hold(
        self, consumer: Consumer, place: Place, protocol: str, end: EndStream
    ) -> Iterator[None]:
        """Have ``end(why)`` called, within the context, once a consumer loses access to a route.

        Immediately where it was lost since the request arrived. Each call passes its own ``end``.
        """
        grant = Grant(consumer, place.application.name, place.route.model, protocol)
        self._holds[end] = grant
        try:
            self._end_revoked({end: grant})
            yield
        finally:
            del self._holds[end]

    def check(self, consumer: Consumer, place: Place, protocol: str) -> None:
        """Raise ``InvalidKey`` or ``NotLinked`` where a consumer has lost access to a route."""
        reasons: list[MataError] = []
        with self.hold(consumer, place, protocol, reasons.append):
            if reasons:
                raise reasons[0]

    def follow(self, snapshot: Snapshot) -> None:
        """Use another snapshot; end the streams that it does not permit."""
        self._snapshot = snapshot
        self._end_revoked(dict(self._holds))

    def _end_revoked(self, held: Mapping[EndStream, Grant]) -> None:
        offered = self._consumers_by_route({grant.application for grant in held.values()})
        for end, grant in held.items():
            consumer = grant.consumer
            known = self._snapshot.consumers.get(consumer.digest)
            if known is None or known.id != consumer.id:
                end(InvalidKey("The API key is no longer valid"))
            elif consumer.id not in offered.get(grant[1:], ()):
                end(NotLinked(f"{consumer.name} may no longer use this application"))

    def _consumers_by_route(
        self, applications: set[str]
    ) -> Mapping[tuple[str, str, str], frozenset[int]]:
        """Return the consumers of each route, by application, model and protocol."""
        return {
            (application.name, route.model, protocol): application.consumers
            for application in self._snapshot.applications
            if application.name in applications
            for route in application.routes
            for protocol in route.protocols
        }
