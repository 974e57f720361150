"""The broker's Ray cluster. The only module that imports Ray."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import printable
from mataserver_ray.broker_messages import JoinedCluster, Node
from mataserver_ray.node_runner import NodeRunner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from mataserver_ray.broker_messages import PlaceRunner
    from mataserver_ray.file_store import FileManifest

CONTROL = "control"
HEAD_CONNECT_SECONDS = 3.0
"""Timeout in seconds for a connection to the head."""
REACHABLE_HEAD_HINT = (
    "; its head answers: if the cluster asks for a token, the server needs it too, "
    "by RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
)
"""Hint added to Ray's error, which does not mention it."""


class RunnerLostError(Exception):
    """A runner ended, or failed to start; the text is the reason."""


class RayNodeRunner(NodeRunner):
    """A runner that knows the Ray id of its node."""

    def describe(self) -> dict[str, str]:
        """Return the versions of the software here, and the node's id."""
        import ray

        return {**super().describe(), "node": ray.get_runtime_context().get_node_id()}


class RayActor:
    """A runner implemented as a Ray actor."""

    def __init__(self, handle: Any, cluster: RayCluster) -> None:
        self._handle = handle
        self._cluster = cluster

    async def locate(self) -> tuple[Node, dict[str, str]]:
        """Wait for its placement; return its node, and the software versions there."""
        described = await _await_result(self._handle.describe.remote())
        node_id = described.pop("node")
        nodes = await asyncio.to_thread(self._cluster.nodes)
        for node in nodes:
            if node.id == node_id:
                return node, described
        raise RunnerLostError("its node ended")

    async def listen(
        self,
        address: str,
        secret: bytes,
        manifests: Sequence[FileManifest],
        environment: Mapping[str, str],
    ) -> tuple[str, int, list[str]]:
        """Make the runner listen; see ``NodeRunner.listen``."""
        plain = msgspec.to_builtins(list(manifests))
        host, port, found = await _await_result(
            self._handle.listen.remote(address, secret, plain, dict(environment))
        )
        return host, port, found

    async def wait_closed(self) -> None:
        """Wait until the runner is closed."""
        await _await_result(self._handle.wait_closed.options(concurrency_group=CONTROL).remote())

    def kill(self) -> None:
        """Kill the runner, if it is still running."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._handle, no_restart=True)


async def _await_result(reference: Awaitable[Any]) -> Any:
    """Await a result of Ray. Raises ``RunnerLostError``."""
    import ray

    try:
        return await reference
    except ray.exceptions.RayError as error:
        raise RunnerLostError(_summary(error)) from None


def _summary(error: Exception) -> str:
    """Return an error's first line, and the last: of a remote traceback, its cause."""
    lines = str(error).strip().splitlines() or [""]
    return printable(": ".join(dict.fromkeys((type(error).__name__, lines[0], lines[-1].strip()))))


class RayCluster:
    """A Ray cluster that this process has joined."""

    def __init__(self) -> None:
        import ray

        # The server restarts workers itself, with back-off; Ray must not retry in addition.
        self._runner_type = ray.remote(
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2,
            concurrency_groups={CONTROL: 2},
            scheduling_strategy="SPREAD",
        )(RayNodeRunner)

    def joined_message(self) -> JoinedCluster:
        """Return the address of the cluster's head."""
        import ray

        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        return JoinedCluster(host.strip("[]"), int(port), ray.__version__)

    def place(self, place: PlaceRunner) -> RayActor:
        """Request a runner: Ray starts it where there is room, on avoided nodes as a last resort.

        It requests no environment variables: with them Ray starts a new process, without them it
        uses an idle one.
        """
        labels: dict[str, str] = dict(place.labels)
        options: dict[str, Any] = {"label_selector": labels}
        if place.avoid:
            others = {**labels, "ray.io/node-id": f"!in({', '.join(place.avoid)})"}
            options = {"label_selector": others, "fallback_strategy": [{"label_selector": labels}]}
        try:
            handle = self._runner_type.options(
                num_cpus=place.cpu,
                num_gpus=place.gpu,
                memory=place.memory or None,
                **options,
            ).remote()
        except ValueError as error:  # an amount or a label that Ray does not take
            raise RunnerLostError(_summary(error)) from None
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
                _known_resources(each["Resources"]),
                _known_resources(free.get(each["NodeID"], {})),
            )
            for each in ray.nodes()
            if each["Alive"]
        ]


def _known_resources(resources: dict[str, float]) -> dict[str, float]:
    return {name: resources[name] for name in ("CPU", "GPU", "memory") if name in resources}


def _check_head(address: str) -> bool:
    """Return whether the head accepts connections: Ray itself would retry for a minute.

    Raises ``OSError``. Returns False for "auto", which only Ray can resolve, and resolves without
    delay.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), HEAD_CONNECT_SECONDS).close()
        return True
    return False


def join(address: str) -> RayCluster:
    """Join the cluster at ``address``. Raises ``OSError`` or ``RuntimeError`` if there is none."""
    import ray

    is_reachable = _check_head(address)
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
        raise ConnectionError(first + REACHABLE_HEAD_HINT * is_reachable) from None
    return RayCluster()
