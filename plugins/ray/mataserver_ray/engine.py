"""The ray engine: each worker runs on a node of a Ray cluster that has room for it.

Ray finds the node, starts the worker's process there and reports its end. Jobs and answers use a
direct connection between the server and that process, which runs the same program as a local child
process; the server's side is the same, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import TYPE_CHECKING

from mataserver import Needs, NodeDied, OutOfMemory, Unavailable, target_command, wait_out
from mataserver_ray.broker_messages import PlaceRunner
from mataserver_ray.cluster import BROKER, Cluster
from mataserver_ray.file_transfer import ManifestCache, relocate, send_missing_files
from mataserver_ray.heartbeat import NodeMonitors
from mataserver_ray.node_runner import SECRET_BYTES, WORKER
from mataserver_ray.pending_placements import RunnerStartError
from mataserver_ray.program_relay import LaunchRequest
from mataserver_ray.remote_program import start_program
from mataserver_ray.versions import check_versions, model_modules
from mataserver_ray.worker import RayWorker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mataserver import Assignment, Child, Placement
    from mataserver_ray.broker_messages import Node, RunnerPlaced
    from mataserver_ray.file_store import FileManifest
    from mataserver_ray.heartbeat import NodeMonitor
    from mataserver_ray.remote_program import RemoteChild

CONNECT_SECONDS = 10.0

log = logging.getLogger("mataserver.ray")


class RayEngine:
    """Starts a worker on a node for each model.

    A node may take ``room`` seconds to have room; one silent for ``silence`` seconds is lost.
    """

    is_remote = True

    def __init__(
        self,
        address: str = "auto",
        *,
        room: float = 30.0,
        silence: float = 6.0,
        broker: str | Callable[..., None] = BROKER,
    ) -> None:
        self.cluster = Cluster(address, silence, broker)
        self._room = room
        self._monitors = NodeMonitors(silence)
        self._workers: set[RayWorker] = set()
        self._manifests = ManifestCache()

    def open(self) -> None:
        """Start connecting to the cluster."""
        self.cluster.open()

    @property
    def waiting(self) -> dict[str, str]:
        """What the engine is not ready for: ``{}``, or the cluster and why it is unavailable."""
        reason = self.cluster.unavailable_reason
        return {} if reason is None else {"ray": reason}

    @property
    def workers(self) -> frozenset[RayWorker]:
        """The workers on the cluster now."""
        return frozenset(self._workers)

    async def nodes(self) -> list[tuple[Node, list[RayWorker], bool]]:
        """Return each live node with its workers, and whether its heartbeats found it lost.

        Raises ``Unavailable`` if the cluster is out of reach.
        """
        found, lost = await self.cluster.nodes(), self._monitors.avoided()
        return [(n, [w for w in self._workers if w.node.id == n.id], n.id in lost) for n in found]

    async def start(self, assignment: Assignment, placement: Placement) -> RayWorker:
        """Place a worker and load the model. Raises a ``MataError`` if that fails.

        If the node ends during the load, retry once on another node.
        """
        try:
            return await self._start(assignment, placement)
        except NodeDied:
            log.warning("reloading %s: its node ended", assignment.spec.name)
        return await self._start(assignment, placement)

    async def close(self) -> None:
        """Leave the cluster; remaining workers end."""
        self._monitors.stop()
        await self.cluster.close()

    @contextlib.asynccontextmanager
    async def run_process(
        self,
        target: str | Sequence[str] | Callable[..., None],
        arguments: Sequence[str] = (),
        *,
        needs: Needs | None = None,
        environment: Mapping[str, str] | None = None,
        nice: int = 0,
        threads: int = 0,
        grace: float = 0.0,
        log: Path | None = None,
    ) -> AsyncIterator[Child]:
        """Run a child process on a node until the context ends: see ``mataserver.run_process``.

        It ends with its node, with the broker and with this process, and is not restarted. Raises
        ``Unavailable`` without a cluster, and ``OutOfMemory`` if no node has room.
        """
        command = target_command(target)
        token, secret = self.cluster.token(), secrets.token_bytes(SECRET_BYTES)
        place = self._build_request(token, needs or Needs(), "auto", {}, secret, [])
        placed = await self._place_runner(place, lambda _reason: None)
        try:
            check_versions(
                placed.node.name,
                placed.versions,
                command[1:2] * (command[0] != "program"),
            )
            given = LaunchRequest([*command, *arguments], dict(environment or {}), nice, threads)
            monitor = self._monitors.monitor(placed.node)
            async with monitor.guard():
                child = await _start_program(placed, secret, given, log)
            monitor.add(child)
            try:
                yield child
            finally:
                monitor.discard(child)
                ending = asyncio.ensure_future(child.end(grace))
                try:
                    await asyncio.shield(ending)
                except asyncio.CancelledError:
                    await wait_out(ending)
                    raise
        finally:
            self.cluster.kill(token)

    async def _start(self, assignment: Assignment, placement: Placement) -> RayWorker:
        name, token = assignment.spec.name, self.cluster.token()
        secret = secrets.token_bytes(SECRET_BYTES)
        manifests = await self._manifests.manifests(assignment)
        place = self._build_request(
            token,
            assignment.needs or Needs(),
            assignment.context.device,
            dict(placement.environment),
            secret,
            manifests,
        )
        workers: list[RayWorker] = []

        def on_end(reason: str) -> None:
            for worker in workers:
                worker.on_exit(reason)

        placed = await self._place_runner(place, on_end)
        try:
            check_versions(placed.node.name, placed.versions, model_modules(assignment))
            monitor, epoch = self._monitors.monitor(placed.node), self.cluster.epoch
            worker = RayWorker(
                name,
                assignment.infer_timeout,
                assignment.context.decode_timeout,
                placed.node,
                lambda: self._is_lost(placed.node, monitor, epoch),
            )
            async with monitor.guard():
                paths = await send_missing_files(name, manifests, placed, secret)
                workers.append(worker)
                await _connect(worker, placed, secret)
        except BaseException:
            self.cluster.kill(token)
            raise
        monitor.add(worker)
        worker.on_end(lambda: monitor.discard(worker))
        try:
            there = relocate(assignment, iter(paths))
            await worker.load(there, lambda: self.cluster.kill(token))
        except BaseException:
            worker.abandon()
            raise
        self._workers.add(worker)
        worker.on_end(lambda: self._workers.discard(worker))
        log.info("%s is on the node %s", name, placed.node.name)
        return worker

    def _build_request(
        self,
        token: int,
        needs: Needs,
        device: str,
        environment: Mapping[str, str],
        secret: bytes,
        manifests: list[FileManifest],
    ) -> PlaceRunner:
        return PlaceRunner(
            token,
            self._room,
            needs.cpu,
            needs.gpus(device),
            round(needs.memory_mb * 1e6),
            dict(needs.labels),
            {"OPENBLAS_NUM_THREADS": "1", **environment},
            self._monitors.avoided(),
            secret.hex(),
            manifests,
        )

    async def _place_runner(
        self, place: PlaceRunner, on_end: Callable[[str], None]
    ) -> RunnerPlaced:
        """Place a runner; one that ends as it starts, as with its node, is placed once more."""
        try:
            try:
                return await self.cluster.place(place, on_end)
            except RunnerStartError:
                return await self.cluster.place(place, on_end)
        except OutOfMemory:
            wanted = ", ".join(_describe_needs(place))
            raise OutOfMemory(f"No node of the Ray cluster has room for {wanted}") from None

    async def _is_lost(self, node: Node, monitor: NodeMonitor, epoch: int) -> bool:
        """Return whether a worker was lost with its node, or with the broker that placed it."""
        if self.cluster.epoch == epoch and await monitor.is_lost():
            self._monitors.avoid(node)
            return True
        return self.cluster.epoch != epoch


async def _start_program(
    placed: RunnerPlaced, secret: bytes, program: LaunchRequest, output: Path | None
) -> RemoteChild:
    try:
        return await start_program(placed.host, placed.port, secret, program, output)
    except OSError:
        log.error("the node %s cannot be reached", placed.node.name)  # noqa: TRY400 - no traceback to show
        raise Unavailable("The node cannot be reached", retry_after=1) from None


async def _connect(worker: RayWorker, placed: RunnerPlaced, secret: bytes) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            transport, _ = await loop.create_connection(lambda: worker, placed.host, placed.port)
    except (OSError, TimeoutError):
        log.error("the node %s cannot be reached", placed.node.name)  # noqa: TRY400 - no traceback to show
        raise Unavailable("The node of the model cannot be reached", retry_after=1) from None
    transport.write(secret + WORKER)


def _describe_needs(place: PlaceRunner) -> Iterator[str]:
    """Yield the resources of a request as text."""
    yield f"{place.cpu:g} CPU"
    if place.gpu:
        yield f"{place.gpu:g} GPU"
    if place.memory:
        yield f"{place.memory / 1e6:g} MB of memory"
    for name, value in place.labels.items():
        yield f"the label {name}={value}"
