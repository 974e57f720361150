"""The broker: a child process of the server, and the only process that uses Ray.

Ray terminates its driver when the cluster's head is gone, replaces signal handlers and starts
threads. A server must not be exposed to that, so it delegates to this process. Ray finds a node for
a seat, starts it there and reports its end; jobs and answers never pass through here.

Seats live as long as this process: Ray ends them when it exits, for whatever reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver.engines.placing import (
    Asked,
    Broken,
    JoinRefused,
    Kill,
    Nodes,
    NoNode,
    Placed,
    PlaceSeat,
    SeatEnded,
)
from mataserver.engines.ray_cluster import SeatLost, join
from mataserver.processes.spawned import Parent

if TYPE_CHECKING:
    from mataserver.engines.placing import Told
    from mataserver.engines.ray_cluster import RayActor, RayCluster


class Broker:
    """Places seats on behalf of one server."""

    def __init__(self, parent: Parent, cluster: RayCluster) -> None:
        self._parent = parent
        self._cluster = cluster
        self._actors: dict[int, RayActor] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve the server's requests until it closes the pipe."""
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def listen() -> None:
            for message in self._parent.messages(Asked):
                loop.call_soon_threadsafe(self._asked, message)
            loop.call_soon_threadsafe(over.set)

        threading.Thread(target=listen, name="listener", daemon=True).start()
        await over.wait()
        for actor in self._actors.values():
            actor.kill()

    def _asked(self, message: Asked) -> None:
        if isinstance(message, PlaceSeat):
            self._spawn(self._place(message))
        elif isinstance(message, Kill):
            actor = self._actors.get(message.token)
            if actor is not None:
                actor.kill()
        else:
            self._spawn(self._list())

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _list(self) -> None:
        self._say(Nodes(await asyncio.to_thread(self._cluster.nodes)))

    async def _place(self, place: PlaceSeat) -> None:
        """Place a seat, and supervise it until it ends."""
        token, placed = place.token, False
        actor = self._actors[token] = self._cluster.place(place)
        try:
            async with asyncio.timeout(place.room):
                node, versions = await actor.where()
            secret = bytes.fromhex(place.secret)
            host, port, found = await actor.listen(
                node.host, secret, place.goods, place.environment
            )
            self._say(Placed(token, host, port, node, versions, found))
            placed = True
            await actor.stay()
            self._say(SeatEnded(token, "it was closed"))
        except TimeoutError:
            self._say(NoNode(token))
        except SeatLost as error:
            self._say(SeatEnded(token, str(error)) if placed else Broken(token, str(error)))
        finally:
            del self._actors[token]
            actor.kill()

    def _say(self, message: Told) -> None:
        with contextlib.suppress(BrokenPipeError):  # the server has exited; this process follows
            self._parent.send(message)


def main() -> None:
    """Run as a child of the server; the only argument is the cluster's address."""
    parent = Parent.on_pipes(sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        cluster = join(parent.arguments[0])
    except (OSError, RuntimeError, ValueError, msgspec.ValidationError) as error:
        parent.send(
            JoinRefused(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        )
        os._exit(1)
    # Ray's own handlers would end this process, and every seat, during the server's drain.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent.send(cluster.joined())
    asyncio.run(Broker(parent, cluster).run())
    os._exit(0)
