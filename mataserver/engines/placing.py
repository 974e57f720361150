"""Messages between the server and its broker: JSON, one per line.

A seat is the slot of one worker on a node, identified by its token. Data from a node passes through
as text and numbers only.
"""

from __future__ import annotations

from msgspec import Struct

from mataserver.engines.store import Goods


class PlaceSeat(Struct, frozen=True, tag=True):
    """Server to broker: find a node for a seat within ``room`` seconds, and start it there.

    ``memory`` is in bytes; nodes in ``avoid`` are a last resort. ``secret`` authenticates the
    server to the seat, in hexadecimal. ``goods`` are files and directories to locate on the node.
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
    """Server to broker: kill a seat."""

    token: int


class List(Struct, frozen=True, tag=True):
    """Server to broker: list the nodes."""


class Joined(Struct, frozen=True, tag=True):
    """Broker to server: joined the cluster; its head's address, and Ray's version."""

    host: str
    port: int
    version: str


class JoinRefused(Struct, frozen=True, tag=True):
    """Broker to server: there is no cluster, or it rejected us; the broker exits."""

    why: str


class Node(Struct, frozen=True):
    """A node: its id, display name, heartbeat address, and its total and free resources.

    ``total`` and ``free`` use Ray's units: ``CPU``, ``GPU``, ``memory`` in bytes.
    """

    id: str
    name: str
    host: str
    port: int
    total: dict[str, float] = {}
    free: dict[str, float] = {}


class Placed(Struct, frozen=True, tag=True):
    """Broker to server: a seat listens at ``host`` and ``port``.

    ``versions`` are those of the software there; ``found`` are the paths of the requested files,
    empty where the node has none.
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
    """Broker to server: a seat failed to start; ``how`` is for the log."""

    token: int
    how: str


class SeatEnded(Struct, frozen=True, tag=True):
    """Broker to server: a placed seat has ended; ``how`` is for the log."""

    token: int
    how: str


class Nodes(Struct, frozen=True, tag=True):
    """Broker to server: the live nodes."""

    nodes: list[Node]


Asked = PlaceSeat | Kill | List
Told = Joined | JoinRefused | Placed | NoNode | Broken | SeatEnded | Nodes
