"""Messages between the server and its broker: JSON, one per line.

A runner is a process on a node that hosts one worker or program, identified by its token. Data from
a node passes through as text and numbers only.
"""

from __future__ import annotations

from msgspec import Struct

from mataserver_ray.file_store import FileManifest


class PlaceRunner(Struct, frozen=True, tag=True):
    """Server to broker: find a node for a runner, and start it there.

    No node has room within ``placement_timeout`` seconds: the reply is ``NoNodeAvailable``.
    ``memory`` is in bytes; nodes in ``avoid`` are a last resort. ``secret`` authenticates the
    server to the runner, in hexadecimal. ``manifests`` are files and directories to locate on the
    node.
    """

    token: int
    placement_timeout: float
    cpu: float
    gpu: float
    memory: int
    labels: dict[str, str]
    environment: dict[str, str]
    avoid: list[str]
    secret: str
    manifests: list[FileManifest]


class KillRunner(Struct, frozen=True, tag=True):
    """Server to broker: kill a runner."""

    token: int


class ListNodes(Struct, frozen=True, tag=True):
    """Server to broker: list the nodes."""


class JoinedCluster(Struct, frozen=True, tag=True):
    """Broker to server: joined the cluster; its head's address, and Ray's version."""

    host: str
    port: int
    version: str


class JoinRefused(Struct, frozen=True, tag=True):
    """Broker to server: there is no cluster, or it rejected us; the broker exits."""

    reason: str


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


class RunnerPlaced(Struct, frozen=True, tag=True):
    """Broker to server: a runner listens at ``host`` and ``port``.

    ``versions`` are those of the software there; ``found`` are the paths of the requested files,
    empty where the node has none.
    """

    token: int
    host: str
    port: int
    node: Node
    versions: dict[str, str]
    found: list[str]


class NoNodeAvailable(Struct, frozen=True, tag=True):
    """Broker to server: no node had room for a runner in time."""

    token: int


class RunnerStartFailed(Struct, frozen=True, tag=True):
    """Broker to server: a runner failed to start; ``reason`` is for the log."""

    token: int
    reason: str


class RunnerEnded(Struct, frozen=True, tag=True):
    """Broker to server: a placed runner has ended; ``reason`` is for the log."""

    token: int
    reason: str


class NodeList(Struct, frozen=True, tag=True):
    """Broker to server: the live nodes."""

    nodes: list[Node]


BrokerRequest = PlaceRunner | KillRunner | ListNodes
BrokerEvent = (
    JoinedCluster
    | JoinRefused
    | RunnerPlaced
    | NoNodeAvailable
    | RunnerStartFailed
    | RunnerEnded
    | NodeList
)
