"""The server's side of the broker: keeps one running, places seats, observes their end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver.engines import pulse
from mataserver.engines.asked import Asked, fail
from mataserver.engines.placing import Joined, JoinRefused, Kill, List, Told
from mataserver.errors import Unavailable
from mataserver.processes.child import run_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.engines.placing import Node, Placed, PlaceSeat
    from mataserver.processes.child import Child

BROKER = "mataserver.engines.broker"
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between attempts to reach a cluster: the first and the longest back-off."""
JOIN_SECONDS = 30.0
"""Timeout for Ray to join a cluster whose head is reachable."""
AWAY = "The Ray cluster is out of reach"

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
        self._asked = Asked()
        self._child: Child | None = None
        self._joined: asyncio.Future[Joined] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._head_lost = False
        self.epoch = 0
        """Number of brokers that have ended: a broker's seats end with its epoch."""

    def open(self) -> None:
        """Start connecting to the cluster, and reconnect until ``close``."""
        if self._keeper is None:
            self._joined = asyncio.get_running_loop().create_future()
            self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def close(self) -> None:
        """Disconnect; placed seats end."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])

    @property
    def away(self) -> str | None:
        """Why nothing can be placed now, or None."""
        joined = self._joined
        if joined is None or not joined.done():
            return "joining the Ray cluster"
        return AWAY if joined.exception() is not None or self._head_lost else None

    async def place(self, place: PlaceSeat, ended: Callable[[str], None]) -> Placed:
        """Place a seat; ``ended(how)`` is called when it ends.

        Raises ``Unavailable`` at once without a cluster, ``OutOfMemory`` if no node has room in
        time, and ``WorkerDied`` if the seat ended during startup.
        """
        child = await self._reached()
        placed = self._asked.place(place.token, ended)
        try:
            await child.send(place)
            return await placed
        except ConnectionError:
            raise Unavailable(AWAY, retry_after=1) from None
        except BaseException:
            self.kill(place.token)
            raise
        finally:
            self._asked.placing.pop(place.token, None)

    def token(self) -> int:
        """Return a token for a new seat."""
        return next(self._tokens)

    def kill(self, token: int) -> None:
        """Kill a seat; its end callback is not called."""
        if self._asked.seats.pop(token, None) is not None and self._child is not None:
            with contextlib.suppress(ConnectionError):
                self._child.write(msgspec.json.encode(Kill(token)) + b"\n")

    async def nodes(self) -> list[Node]:
        """Return the live nodes. Raises ``Unavailable``."""
        child = await self._reached()
        listed = self._asked.nodes()
        try:
            await child.send(List())
            async with asyncio.timeout(self._silence):
                return await listed
        except (TimeoutError, ConnectionError):
            raise Unavailable(AWAY, retry_after=1) from None

    async def _reached(self) -> Child:
        """Return the broker once it has joined. Raises ``Unavailable`` without a cluster."""
        self.open()
        joined = self._joined
        if joined is not None:
            await asyncio.wait([joined])
            if joined.exception() is None and not self._head_lost and self._child is not None:
                child = self._child
                # The broker may have ended during the check: a request to it would stay pending
                # forever.
                if await _answers(joined.result()) and self._child is child:
                    return child
        raise Unavailable(AWAY, retry_after=1)

    # the broker

    async def _keep(self) -> None:
        """Run a broker, and restart it with back-off when it ends."""
        pause = FIRST_PAUSE
        while True:
            said, joined, told = "", False, False
            try:
                async with run_process(self._broker, [self._address], inherit=("RAY_*",)) as child:
                    try:
                        said = await self._follow(child)
                    finally:  # at once: its seats end no later than it does
                        joined, told = self._gone(), True
                    if not said:
                        said = (await child.last_words())[-500:]
            except (Unavailable, OSError, ValueError, msgspec.MsgspecError) as error:
                said = str(error) or "it did not join in time"
            finally:
                if not told:
                    self._gone()
            log.error("the Ray cluster is out of reach: %s", " ".join(said.split()))
            if joined:
                pause = FIRST_PAUSE
            else:
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE, 2 * pause)

    async def _follow(self, child: Child) -> str:
        """Supervise a broker until it ends or must be replaced; return the reason, if known."""
        messages = child.messages(Told)
        async with asyncio.timeout(JOIN_SECONDS):
            first = await anext(messages, None)
        if not isinstance(first, Joined):
            return first.why if isinstance(first, JoinRefused) else ""
        self._child = child
        if self._joined is None or self._joined.done():
            self._joined = asyncio.get_running_loop().create_future()
        self._joined.set_result(first)
        log.info("joined the Ray cluster at %s:%d (Ray %s)", first.host, first.port, first.version)
        reading = asyncio.ensure_future(self._read(messages))
        watching = asyncio.ensure_future(self._watch(first))
        try:
            await asyncio.wait([reading, watching], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, watching):
                task.cancel()
            await asyncio.gather(reading, watching, return_exceptions=True)
        return "its head went away" if self._head_lost else ""

    async def _read(self, messages: Any) -> None:
        async for message in messages:
            self._asked.on_message(message)

    async def _watch(self, head: Joined) -> None:
        """Monitor the head; return once a new broker can join without losing seats.

        Ray ends seats a minute after their head is gone; until then they keep serving. A head that
        comes back may belong to another cluster.
        """
        without, pause = 0, self._silence / pulse.LOOKS
        while not (self._head_lost and not self._asked.seats):
            await asyncio.sleep(pause)
            sign = await pulse.look(head.host, head.port, pulse.HURRY)
            without = 0 if sign is pulse.Sign.ALIVE else without + 1
            refused = sign is pulse.Sign.REFUSED and not self._head_lost
            pause = pulse.SURE if refused else self._silence / pulse.LOOKS
            if without >= 2:  # one missed reply may be this loop's own delay
                self._head_lost = True

    def _gone(self) -> bool:
        """Fail everything pending after the broker's end; return whether it had joined.

        Later callers wait for one attempt to rejoin; after that they get 503 at once.
        """
        self._child, self._head_lost = None, False
        self.epoch += 1
        error = Unavailable(AWAY, retry_after=1)
        future = self._joined
        joined = future is not None and future.done() and future.exception() is None
        if future is not None:
            fail(future, error)
        if joined:
            self._joined = asyncio.get_running_loop().create_future()
        self._asked.end(error)
        return joined


async def _answers(head: Joined) -> bool:
    return await pulse.look(head.host, head.port, pulse.HURRY) is pulse.Sign.ALIVE
