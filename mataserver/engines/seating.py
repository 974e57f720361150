"""Where seats are placed, as the broker sees it: a cluster of any kind, and seats in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mataserver.engines.placing import Node, PlaceSeat
    from mataserver.engines.store import Goods


class SeatLost(Exception):
    """A seat ended, or could not be started; the text says how."""


class Actor(Protocol):
    """A seat as the broker holds it. Every method but ``kill`` raises ``SeatLost``."""

    async def where(self) -> tuple[Node, dict[str, str]]:
        """Wait until it is placed; return its node, and the versions of what runs there."""
        ...

    async def listen(
        self, address: str, secret: bytes, goods: Sequence[Goods], environment: Mapping[str, str]
    ) -> tuple[str, int, list[str]]:
        """Have it listen; see ``Seat.listen``."""
        ...

    async def stay(self) -> None:
        """Return when it was closed."""
        ...

    def kill(self) -> None:
        """End it, if it has not ended."""
        ...


class SeatCluster(Protocol):
    """Where seats are placed."""

    def place(self, place: PlaceSeat) -> Actor:
        """Ask for a seat."""
        ...

    def nodes(self) -> list[Node]:
        """Return the nodes that live. Blocking."""
        ...
