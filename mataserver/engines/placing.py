"""What the server and its broker tell each other: JSON, one message a line.

A seat is the place of one worker on a node, known by its token. What a node says of itself passes
through here as text and numbers only.
"""

from __future__ import annotations

from msgspec import Struct

from mataserver.engines.store import Goods


class PlaceSeat(Struct, frozen=True, tag=True):
    """Server to broker: find a node for a seat within ``room`` seconds, and start it there.

    ``memory`` are bytes; ``avoid`` names nodes that are taken only when no other one will do.
    ``secret`` is what the seat is to hear first, in hexadecimal. ``goods`` are files and folders of
    which the node is to tell where it has them.
    """

    token: int
    room: float
    cpu: float
    gpu: float
    memory: int
    labels: dict[str, str]
    environment: dict[str, str]
    avoid: list[str]
    secret: str
    goods: list[Goods]


class Kill(Struct, frozen=True, tag=True):
    """Server to broker: end a seat, whatever it does."""

    token: int


class List(Struct, frozen=True, tag=True):
    """Server to broker: tell the nodes."""


class Joined(Struct, frozen=True, tag=True):
    """Broker to server: the cluster is reached; where its head listens, and Ray's version."""

    host: str
    port: int
    version: str


class JoinRefused(Struct, frozen=True, tag=True):
    """Broker to server: there is no cluster, or none that takes us; the broker then ends."""

    why: str


class Node(Struct, frozen=True):
    """A node: its id, its name to people, where it tells that it lives, what it has and has left.

    ``total`` and ``free`` count what Ray does: ``CPU``, ``GPU``, ``memory`` in bytes.
    """

    id: str
    name: str
    host: str
    port: int
    total: dict[str, float] = {}
    free: dict[str, float] = {}


class Placed(Struct, frozen=True, tag=True):
    """Broker to server: a seat listens at ``host`` and ``port``.

    ``versions`` are those of what runs there, ``found`` where it has what was asked for, each
    empty where it has not.
    """

    token: int
    host: str
    port: int
    node: Node
    versions: dict[str, str]
    found: list[str]


class NoNode(Struct, frozen=True, tag=True):
    """Broker to server: no node had room for a seat in time."""

    token: int


class Broken(Struct, frozen=True, tag=True):
    """Broker to server: a seat could not be started; ``how`` is for the log."""

    token: int
    how: str


class SeatEnded(Struct, frozen=True, tag=True):
    """Broker to server: a seat that was placed has ended; ``how`` is for the log."""

    token: int
    how: str


class Nodes(Struct, frozen=True, tag=True):
    """Broker to server: the nodes that live."""

    nodes: list[Node]


Asked = PlaceSeat | Kill | List
Told = Joined | JoinRefused | Placed | NoNode | Broken | SeatEnded | Nodes
