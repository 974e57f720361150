"""The broker: a child process of the server, and the only process that uses Ray.

Ray terminates its driver when the cluster's head is gone, replaces signal handlers and starts
threads. A server must not be exposed to that, so it delegates to this process. Ray finds a node for
a runner, starts it there and reports its end; jobs and answers never pass through here.

Runners live as long as this process: Ray ends them when it exits, for whatever reason.
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

from mataserver import Parent
from mataserver_ray.broker_messages import (
    BrokerRequest,
    JoinRefused,
    KillRunner,
    NodeList,
    NoNodeAvailable,
    PlaceRunner,
    RunnerEnded,
    RunnerPlaced,
    RunnerStartFailed,
)
from mataserver_ray.ray_cluster import RunnerLostError, join

if TYPE_CHECKING:
    from mataserver_ray.broker_messages import BrokerEvent
    from mataserver_ray.ray_cluster import RayActor, RayCluster


class Broker:
    """Places runners on behalf of one server."""

    def __init__(self, parent: Parent, cluster: RayCluster) -> None:
        self._parent = parent
        self._cluster = cluster
        self._placements: dict[int, asyncio.Task[None]] = {}
        """Those of the runners that have not ended, from the moment that they are requested."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve the server's requests until it closes the pipe.

        The end of the loop then cancels every placement, which kills its runner.
        """
        loop = asyncio.get_running_loop()
        is_over = asyncio.Event()

        def listen() -> None:
            for message in self._parent.messages(BrokerRequest):
                loop.call_soon_threadsafe(self._on_request, message)
            loop.call_soon_threadsafe(is_over.set)

        threading.Thread(target=listen, name="listener", daemon=True).start()
        await is_over.wait()

    def _on_request(self, message: BrokerRequest) -> None:
        if isinstance(message, PlaceRunner):
            self._placements[message.token] = self._spawn(self._place(message))
        elif isinstance(message, KillRunner):
            placement = self._placements.pop(message.token, None)
            if placement is not None:  # it may not have begun: then nothing is placed
                placement.cancel()
        else:
            self._spawn(self._list())

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _list(self) -> None:
        self._send(NodeList(await asyncio.to_thread(self._cluster.nodes)))

    async def _place(self, place: PlaceRunner) -> None:
        """Place a runner, and supervise it until it ends. The server is told, whatever happens."""
        token = place.token
        actor: RayActor | None = None
        last: BrokerEvent = RunnerStartFailed(token, "the broker failed, see its log")
        try:
            actor = self._cluster.place(place)
            async with asyncio.timeout(place.placement_timeout):
                node, versions = await actor.locate()
            secret = bytes.fromhex(place.secret)
            host, port, found = await actor.listen(
                node.host, secret, place.manifests, place.environment
            )
            self._send(RunnerPlaced(token, host, port, node, versions, found))
            last = RunnerEnded(token, "it was closed")
            await actor.wait_closed()
        except asyncio.CancelledError:
            last = RunnerEnded(token, "it was killed")
            raise
        except TimeoutError:
            last = NoNodeAvailable(token)
        except RunnerLostError as error:
            last = msgspec.structs.replace(last, reason=str(error))
        finally:
            self._send(last)
            self._placements.pop(token, None)
            if actor is not None:
                actor.kill()

    def _send(self, message: BrokerEvent) -> None:
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
    # Ray's own handlers would end this process, and every runner, during the server's drain.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent.send(cluster.joined_message())
    asyncio.run(Broker(parent, cluster).run())
    os._exit(0)
