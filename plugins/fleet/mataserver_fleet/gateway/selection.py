"""Selects the server and the version for a request."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from mataserver import Unavailable
from mataserver_fleet.gateway.sequences import Destination, Sequences

if TYPE_CHECKING:
    from collections.abc import Container

    from mataserver_fleet.gateway.sequences import SequenceStep
    from mataserver_fleet.gateway.servers import Servers
    from mataserver_fleet.gateway.snapshot import Place, Release


class ServerSelector:
    """Chooses by what servers are busy with, by weights, and by what a sequence is bound to."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._sequences = Sequences(servers.clock)

    def bound_destination(
        self, place: Place, version: str, step: SequenceStep | None, consumer: int
    ) -> Destination | None:
        """Return what a request of a sequence is bound to; None for one that is free.

        Raises ``SequenceTaken`` for another consumer's.
        """
        if step is None:
            return None
        destination = self._sequences.find(place.route.model, step, consumer)
        if destination is None or destination.target not in place.route.targets:
            return None
        return (
            Destination(destination.target, version)
            if version not in {"", destination.version}
            else destination
        )

    def bind(
        self, place: Place, step: SequenceStep, destination: Destination, consumer: int
    ) -> None:
        """Bind a sequence to where one of its requests was answered. Raises ``SequenceTaken``."""
        self._sequences.bind(place.route.model, step, destination, consumer)

    def choose(
        self,
        place: Place,
        version: str,
        bound_destination: Destination | None = None,
        tried: Container[str] = (),
        *,
        rpc: bool = False,
    ) -> Destination | None:
        """Return the server and version to use; None where no untried server is ready.

        version: what the request names, or empty.
        rpc:     whether it must be asked by gRPC.

        Raises ``Unavailable`` for a sequence whose server is gone.
        """
        route = place.route
        if bound_destination is not None:
            if not self._servers.get(bound_destination.target).serves(
                route.path(bound_destination.version, "ready")
            ):
                raise Unavailable("The server of this sequence is gone: start the sequence again")
            return bound_destination
        targets = [each for each in route.targets if each.rpc] if rpc else route.targets
        for each in [version] if version else order_by_weight(route.releases):
            target = self._servers.pick(targets, route.path(each, "ready"), tried)
            if target is not None:
                return Destination(target, each)
        return None


def order_by_weight(releases: tuple[Release, ...]) -> list[str]:
    """Return the versions in the order in which they are tried: the first is drawn by weight."""
    if len(releases) == 1:
        return [releases[0].version]
    weights = [each.weight for each in releases]
    (first,) = random.choices(releases, weights)  # noqa: S311 - no secret
    rest = sorted((e for e in releases if e is not first), key=lambda each: -each.weight)
    return [first.version, *(each.version for each in rest)]
