"""The broker's Ray cluster. The only module that imports Ray."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver.engines.placing import Joined, Node
from mataserver.engines.seat import Seat

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from mataserver.engines.placing import PlaceSeat
    from mataserver.engines.store import Goods

CONTROL = "control"
REACH_SECONDS = 3.0
"""Timeout in seconds for a connection to the head."""
UNWANTED = (
    "; its head answers: if the cluster asks for a token, the server needs it too, "
    "by RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
)
"""Hint added to Ray's error, which does not mention it."""


class SeatLost(Exception):
    """A seat ended, or failed to start; the text says how."""


class NodeSeat(Seat):
    """A seat that knows the Ray id of its node."""

    def where(self) -> dict[str, str]:
        """Return the versions of the software here, and the node's id."""
        import ray

        return {**super().where(), "node": ray.get_runtime_context().get_node_id()}


class RayActor:
    """A seat implemented as a Ray actor."""

    def __init__(self, handle: Any, cluster: RayCluster) -> None:
        self._handle = handle
        self._cluster = cluster

    async def where(self) -> tuple[Node, dict[str, str]]:
        """Wait for its placement; return its node, and the software versions there."""
        told = await _answer(self._handle.where.remote())
        node_id = told.pop("node")
        nodes = await asyncio.to_thread(self._cluster.nodes)
        for node in nodes:
            if node.id == node_id:
                return node, told
        raise SeatLost("its node ended")

    async def listen(
        self, address: str, secret: bytes, goods: Sequence[Goods], environment: Mapping[str, str]
    ) -> tuple[str, int, list[str]]:
        """Make the seat listen; see ``Seat.listen``."""
        given = msgspec.to_builtins(list(goods))
        host, port, found = await _answer(
            self._handle.listen.remote(address, secret, given, dict(environment))
        )
        return host, port, found

    async def stay(self) -> None:
        """Wait until the seat is closed."""
        await _answer(self._handle.stay.options(concurrency_group=CONTROL).remote())

    def kill(self) -> None:
        """Kill the seat, if it is still running."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._handle, no_restart=True)


async def _answer(reference: Awaitable[Any]) -> Any:
    """Await an actor's result. Raises ``SeatLost``."""
    import ray

    try:
        return await reference
    except ray.exceptions.RayError as error:
        first = str(error).strip().partition("\n")[0]
        raise SeatLost(f"{type(error).__name__}: {first}") from None


class RayCluster:
    """A Ray cluster that this process has joined."""

    def __init__(self) -> None:
        import ray

        # The server restarts workers itself, with back-off; Ray must not retry in addition.
        self._seat = ray.remote(
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2,
            concurrency_groups={CONTROL: 2},
            scheduling_strategy="SPREAD",
        )(NodeSeat)

    def joined(self) -> Joined:
        """Return the address of the cluster's head."""
        import ray

        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        return Joined(host.strip("[]"), int(port), ray.__version__)

    def place(self, place: PlaceSeat) -> RayActor:
        """Request a seat: Ray starts it where there is room, on avoided nodes as a last resort.

        It requests no environment variables: they would make Ray start a new process, while a seat
        without them takes an idle one at once.
        """
        labels: dict[str, str] = dict(place.labels)
        options: dict[str, Any] = {"label_selector": labels}
        if place.avoid:
            others = {**labels, "ray.io/node-id": f"!in({', '.join(place.avoid)})"}
            options = {"label_selector": others, "fallback_strategy": [{"label_selector": labels}]}
        handle = self._seat.options(
            num_cpus=place.cpu,
            num_gpus=place.gpu,
            memory=place.memory or None,
            **options,
        ).remote()
        return RayActor(handle, self)

    def nodes(self) -> list[Node]:
        """Return the live nodes. Blocking."""
        import ray

        free = ray._private.state.available_resources_per_node()  # noqa: SLF001 - no public way
        return [
            Node(
                each["NodeID"],
                each["NodeManagerHostname"],
                each["NodeManagerAddress"],
                each["NodeManagerPort"],
                _counted(each["Resources"]),
                _counted(free.get(each["NodeID"], {})),
            )
            for each in ray.nodes()
            if each["Alive"]
        ]


def _counted(resources: dict[str, float]) -> dict[str, float]:
    return {name: resources[name] for name in ("CPU", "GPU", "memory") if name in resources}


def _check_head(address: str) -> bool:
    """Return whether the head accepts connections: Ray itself would retry for a minute.

    Raises ``OSError``. Returns False for "auto", which only Ray can resolve, and does so at once.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
        return True
    return False


def join(address: str) -> RayCluster:
    """Join the cluster at ``address``. Raises ``OSError`` or ``RuntimeError`` if there is none."""
    import ray

    answers = _check_head(address)
    try:
        ray.init(
            address=address,
            namespace="mataserver",
            log_to_driver=False,
            logging_level="error",
            configure_logging=False,
        )
    except ConnectionError as error:
        first = str(error).strip().partition("\n")[0]
        raise ConnectionError(first + UNWANTED * answers) from None
    return RayCluster()
