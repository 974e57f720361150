"""The server's side of the broker: keeps one running, places runners, observes their end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import Unavailable, run_process
from mataserver_ray import heartbeat
from mataserver_ray.broker_messages import (
    BrokerEvent,
    JoinedCluster,
    JoinRefused,
    KillRunner,
    ListNodes,
)
from mataserver_ray.pending_placements import PendingPlacements, fail_future

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver import Child
    from mataserver_ray.broker_messages import Node, PlaceRunner, RunnerPlaced

BROKER = "mataserver_ray.broker"
FIRST_BACKOFF, MAX_BACKOFF = 0.5, 10.0
"""Seconds between attempts to reach a cluster: the first and the longest back-off."""
JOIN_SECONDS = 30.0
"""Timeout for Ray to join a cluster whose head is reachable."""
UNREACHABLE = "The Ray cluster is out of reach"

log = logging.getLogger("mataserver.ray")


class Cluster:
    """The server's view of a Ray cluster.

    ``broker`` is the target to run as the child process; after ``silence`` seconds without a
    heartbeat the head counts as lost.
    """

    def __init__(
        self, address: str, silence: float = 6.0, broker: str | Callable[..., None] = BROKER
    ) -> None:
        self._address = address
        self._silence = silence
        self._broker = broker
        self._tokens = itertools.count(1)
        self._pending = PendingPlacements()
        self._child: Child | None = None
        self._joined: asyncio.Future[JoinedCluster] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._head_lost = False
        self.epoch = 0
        """Number of brokers that have ended: a broker's runners end with its epoch."""

    def open(self) -> None:
        """Start connecting to the cluster, and reconnect until ``close``."""
        if self._supervisor is None:
            self._joined = asyncio.get_running_loop().create_future()
            self._supervisor = asyncio.get_running_loop().create_task(self._supervise())

    async def close(self) -> None:
        """Disconnect; placed runners end."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait([supervisor])

    @property
    def unavailable_reason(self) -> str | None:
        """Why nothing can be placed now, or None."""
        joined = self._joined
        if joined is None or not joined.done():
            return "joining the Ray cluster"
        return UNREACHABLE if joined.exception() is not None or self._head_lost else None

    async def place(self, place: PlaceRunner, on_end: Callable[[str], None]) -> RunnerPlaced:
        """Place a runner; ``on_end(reason)`` is called when it ends.

        Raises ``Unavailable`` immediately without a cluster, ``OutOfMemory`` if no node has room in
        time, and ``WorkerDied`` if the runner ended during startup.
        """
        child = await self._connected_broker()
        placed = self._pending.place(place.token, on_end)
        try:
            await child.send(place)
            return await placed
        except ConnectionError:
            raise Unavailable(UNREACHABLE, retry_after=1) from None
        except BaseException:
            self.kill(place.token)
            raise
        finally:
            self._pending.placing.pop(place.token, None)

    def token(self) -> int:
        """Return a token for a new runner."""
        return next(self._tokens)

    def kill(self, token: int) -> None:
        """Kill a runner; its end callback is not called."""
        if self._pending.end_callbacks.pop(token, None) is not None and self._child is not None:
            with contextlib.suppress(ConnectionError):
                self._child.write(msgspec.json.encode(KillRunner(token)) + b"\n")

    async def nodes(self) -> list[Node]:
        """Return the live nodes. Raises ``Unavailable``."""
        child = await self._connected_broker()
        listed = self._pending.nodes()
        try:
            await child.send(ListNodes())
            async with asyncio.timeout(self._silence):
                return await listed
        except (TimeoutError, ConnectionError):
            raise Unavailable(UNREACHABLE, retry_after=1) from None

    async def _connected_broker(self) -> Child:
        """Return the broker once it has joined. Raises ``Unavailable`` without a cluster."""
        self.open()
        joined = self._joined
        if joined is not None:
            await asyncio.wait([joined])
            if joined.exception() is None and not self._head_lost and self._child is not None:
                child = self._child
                # The broker may have ended during the check: a request to it would stay pending
                # forever.
                if await _is_head_alive(joined.result()) and self._child is child:
                    return child
        raise Unavailable(UNREACHABLE, retry_after=1)

    # the broker

    async def _supervise(self) -> None:
        """Run a broker, and restart it with back-off when it ends."""
        delay = FIRST_BACKOFF
        while True:
            reason, joined, is_reported = "", False, False
            try:
                async with run_process(self._broker, [self._address], inherit=("RAY_*",)) as child:
                    try:
                        reason = await self._run_until_end(child)
                    finally:  # before its last words are read: its runners have ended with it
                        joined, is_reported = self._on_broker_end(), True
                    if not reason:
                        reason = (await child.last_words())[-500:]
            except (Unavailable, OSError, ValueError, msgspec.MsgspecError) as error:
                reason = str(error) or "it did not join in time"
            finally:
                if not is_reported:
                    self._on_broker_end()
            log.error("the Ray cluster is out of reach: %s", " ".join(reason.split()))
            if joined:
                delay = FIRST_BACKOFF
            else:
                await asyncio.sleep(delay)
                delay = min(MAX_BACKOFF, 2 * delay)

    async def _run_until_end(self, child: Child) -> str:
        """Supervise a broker until it ends or must be replaced; return the reason, if known."""
        messages = child.messages(BrokerEvent)
        async with asyncio.timeout(JOIN_SECONDS):
            first = await anext(messages, None)
        if not isinstance(first, JoinedCluster):
            return first.reason if isinstance(first, JoinRefused) else ""
        self._child = child
        if self._joined is None or self._joined.done():
            self._joined = asyncio.get_running_loop().create_future()
        self._joined.set_result(first)
        log.info("joined the Ray cluster at %s:%d (Ray %s)", first.host, first.port, first.version)
        reading = asyncio.ensure_future(self._read(messages))
        watching = asyncio.ensure_future(self._monitor_head(first))
        try:
            await asyncio.wait([reading, watching], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, watching):
                task.cancel()
            await asyncio.gather(reading, watching, return_exceptions=True)
        return "its head went away" if self._head_lost else ""

    async def _read(self, messages: Any) -> None:
        async for message in messages:
            self._pending.on_message(message)

    async def _monitor_head(self, head: JoinedCluster) -> None:
        """Monitor the head; return once a new broker can join without losing runners.

        Ray ends runners a minute after their head is gone; until then they keep serving. A head
        that comes back may belong to another cluster.
        """
        missed, delay = 0, self._silence / heartbeat.MISSED_LIMIT
        while not (self._head_lost and not self._pending.end_callbacks):
            await asyncio.sleep(delay)
            result = await heartbeat.probe(head.host, head.port, heartbeat.PROBE_TIMEOUT)
            missed = 0 if result is heartbeat.ProbeResult.ALIVE else missed + 1
            refused = result is heartbeat.ProbeResult.REFUSED and not self._head_lost
            delay = heartbeat.RECHECK_SECONDS if refused else self._silence / heartbeat.MISSED_LIMIT
            if missed >= 2 and not self._head_lost:  # one may be this loop's own delay
                self._head_lost = True  # nothing will be placed: not "no room", after a while
                self._pending.fail_pending(Unavailable(UNREACHABLE, retry_after=1))

    def _on_broker_end(self) -> bool:
        """Fail everything pending after the broker's end; return whether it had joined.

        Later callers wait for one attempt to rejoin; after that they get 503 immediately.
        """
        self._child, self._head_lost = None, False
        self.epoch += 1
        error = Unavailable(UNREACHABLE, retry_after=1)
        future = self._joined
        joined = future is not None and future.done() and future.exception() is None
        if future is not None:
            fail_future(future, error)
        if joined:
            self._joined = asyncio.get_running_loop().create_future()
        self._pending.fail_all(error)
        return joined


async def _is_head_alive(head: JoinedCluster) -> bool:
    return (
        await heartbeat.probe(head.host, head.port, heartbeat.PROBE_TIMEOUT)
        is heartbeat.ProbeResult.ALIVE
    )
