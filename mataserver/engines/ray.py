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

from mataserver.config.needs import Needs
from mataserver.engines.cluster import BROKER, Cluster
from mataserver.engines.errand import begin
from mataserver.engines.placing import PlaceSeat
from mataserver.engines.program import Launch
from mataserver.engines.pulse import NodeWatch
from mataserver.engines.ray_worker import RayWorker
from mataserver.engines.releases import compare, modules_of
from mataserver.engines.seat import SECRET_BYTES, WORK
from mataserver.engines.shipping import Shipping, deliver, relocated
from mataserver.engines.worker_errors import NodeDied
from mataserver.errors import OutOfMemory, Unavailable
from mataserver.processes.child import named

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mataserver.engines.errand import ErrandChild
    from mataserver.engines.placing import Node, Placed
    from mataserver.engines.pulse import Pulse
    from mataserver.engines.store import Goods
    from mataserver.engines.work import Assignment, Placement
    from mataserver.processes.child import Child

CONNECT_SECONDS = 10.0

log = logging.getLogger("mataserver.ray")


class RayEngine:
    """Starts a worker on a node for each model.

    ``address`` is the cluster's; ``room`` is the timeout in seconds for a node to have room for a
    worker; a node without a heartbeat for ``silence`` seconds is lost.
    """

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
        self._watch = NodeWatch(silence)
        self._workers: set[RayWorker] = set()
        self._shipping = Shipping()

    def open(self) -> None:
        """Start connecting to the cluster."""
        self.cluster.open()

    @property
    def waiting(self) -> dict[str, str]:
        """What the engine is not ready for: ``{}``, or the cluster and why it is unavailable."""
        away = self.cluster.away
        return {} if away is None else {"ray": away}

    @property
    def workers(self) -> frozenset[RayWorker]:
        """The workers on the cluster now."""
        return frozenset(self._workers)

    async def nodes(self) -> list[tuple[Node, list[str]]]:
        """Return each live node with the models of its workers.

        Raises ``Unavailable`` if the cluster is out of reach.
        """
        found = await self.cluster.nodes()
        return [(n, sorted(w.model for w in self._workers if w.node.id == n.id)) for n in found]

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
        self._watch.stop()
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
        what = named(target)
        token, secret = self.cluster.token(), secrets.token_bytes(SECRET_BYTES)
        place = self._place(token, needs or Needs(), "auto", {}, secret, [])
        placed = await self._placed(place, lambda _how: None)
        try:
            compare(placed.node.name, placed.versions, what[1:2] * (what[0] != "program"))
            given = Launch([*what, *arguments], dict(environment or {}), nice, threads)
            child = await self._begin(placed, secret, given, log)
            watched = self._watch.pulse(placed.node)
            watched.add(child)
            try:
                yield child
            finally:
                watched.discard(child)
                ending = asyncio.ensure_future(child.end(grace))
                try:
                    await asyncio.shield(ending)
                except asyncio.CancelledError:
                    await ending
                    raise
        finally:
            self.cluster.kill(token)

    async def _begin(
        self, placed: Placed, secret: bytes, program: Launch, output: Path | None
    ) -> ErrandChild:
        try:
            return await begin(placed.host, placed.port, secret, program, output)
        except OSError:
            log.error("the node %s cannot be reached", placed.node.name)  # noqa: TRY400 - told as it is
            raise Unavailable("The node cannot be reached", retry_after=1) from None

    async def _start(self, assignment: Assignment, placement: Placement) -> RayWorker:
        name, token = assignment.spec.name, self.cluster.token()
        secret = secrets.token_bytes(SECRET_BYTES)
        goods = await self._shipping.goods(assignment)
        place = self._place(
            token,
            assignment.needs or Needs(),
            assignment.context.device,
            dict(placement.environment),
            secret,
            goods,
        )
        workers: list[RayWorker] = []

        def ended(how: str) -> None:
            for worker in workers:
                worker.on_exit(how)

        placed = await self._placed(place, ended)
        try:
            compare(placed.node.name, placed.versions, modules_of(assignment))
            paths = await deliver(name, goods, placed, secret)
            watched, epoch = self._watch.pulse(placed.node), self.cluster.epoch
            worker = RayWorker(
                name,
                assignment.infer_timeout,
                assignment.decode_timeout,
                placed.node,
                lambda: self._is_lost(placed.node, watched, epoch),
            )
            workers.append(worker)
            await _connect(worker, placed, secret)
        except BaseException:
            self.cluster.kill(token)
            raise
        watched.add(worker)
        worker.on_end(lambda: watched.discard(worker))
        try:
            there = relocated(assignment, iter(paths))
            await worker.load(there, lambda: self.cluster.kill(token))
        except BaseException:
            worker.abandon()
            raise
        self._workers.add(worker)
        worker.on_end(lambda: self._workers.discard(worker))
        log.info("%s is on the node %s", name, placed.node.name)
        return worker

    def _place(
        self,
        token: int,
        needs: Needs,
        device: str,
        environment: Mapping[str, str],
        secret: bytes,
        goods: list[Goods],
    ) -> PlaceSeat:
        return PlaceSeat(
            token,
            self._room,
            needs.cpu,
            needs.gpus(device),
            int(needs.memory_mb * 1e6),
            dict(needs.labels),
            {"OPENBLAS_NUM_THREADS": "1", **environment},
            self._watch.avoided(),
            secret.hex(),
            goods,
        )

    async def _placed(self, place: PlaceSeat, ended: Callable[[str], None]) -> Placed:
        try:
            return await self.cluster.place(place, ended)
        except OutOfMemory:
            wanted = ", ".join(_wants(place))
            raise OutOfMemory(f"No node of the Ray cluster has room for {wanted}") from None

    async def _is_lost(self, node: Node, watched: Pulse, epoch: int) -> bool:
        """Return whether a worker was lost with its node, or with the broker that placed it."""
        if self.cluster.epoch == epoch and await watched.is_lost():
            self._watch.avoid(node)
            return True
        return self.cluster.epoch != epoch


async def _connect(worker: RayWorker, placed: Placed, secret: bytes) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            transport, _ = await loop.create_connection(lambda: worker, placed.host, placed.port)
    except (OSError, TimeoutError):
        log.error("the node %s cannot be reached", placed.node.name)  # noqa: TRY400 - told as it is
        raise Unavailable("The node of the model cannot be reached", retry_after=1) from None
    transport.write(secret + WORK)


def _wants(place: PlaceSeat) -> Iterator[str]:
    """Yield the resources of a request as text."""
    yield f"{place.cpu:g} CPU"
    if place.gpu:
        yield f"{place.gpu:g} GPU"
    if place.memory:
        yield f"{place.memory / 1e6:g} MB of memory"
    for name, value in place.labels.items():
        yield f"the label {name}={value}"
