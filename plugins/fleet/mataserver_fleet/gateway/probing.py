"""Asks every server again and again whether it serves the models that routes lead to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from mataserver_fleet.gateway.reaching import Reaching
    from mataserver_fleet.gateway.servers import Server, Servers
    from mataserver_fleet.gateway.snapshot import Snapshot, Target

HURRY = 0.25
"""Seconds between two looks at a server that is in trouble."""
MISSES = 2
"""Probes one after the other that a server may be late for until it is taken to be dead."""

log = logging.getLogger("mataserver.plugin.fleet")


class Probes:
    """One task a server. ``interval`` and ``timeout`` are in seconds.

    Whether a server is ready as a whole is not asked: a Triton says no during every load.
    """

    def __init__(
        self,
        servers: Servers,
        session: aiohttp.ClientSession,
        reaching: Reaching,
        interval: float = 1.0,
        timeout: float = 1.0,
    ) -> None:
        self._servers = servers
        self._session = session
        self._reaching = reaching
        self._interval = interval
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._paths: dict[str, frozenset[str]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def follow(self, snapshot: Snapshot) -> None:
        """Look at the servers of a snapshot, and at no others."""
        wanted: dict[str, set[str]] = {}
        targets: dict[str, Target] = {}
        for route in snapshot.routes():
            paths = {route.path(each.version, "ready") for each in route.releases}
            for target in route.targets:
                if not target.token:
                    targets[target.url] = target
                    wanted.setdefault(target.url, set()).update(paths)
        self._paths = {url: frozenset(paths) for url, paths in wanted.items()}
        self._servers.keep(wanted)
        for url in [each for each in self._tasks if each not in wanted]:
            self._tasks.pop(url).cancel()
        for url, target in targets.items():
            server = self._servers.of(target)
            server.unready &= wanted[url]
            if url not in self._tasks:
                self._tasks[url] = asyncio.ensure_future(self._watch(target, server))

    async def close(self) -> None:
        """Look at nothing any more."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self, target: Target, server: Server, path: str) -> bool:
        """Ask now whether a server serves a model; return whether it does."""
        url = target.url
        try:
            await self._reaching.check_literal(target)
            ready = await self._ready(url + path)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._miss(url, server, error)
            return False
        now = self._servers.clock()
        server.answered(now)
        if path in self._paths.get(url, ()):  # any other is looked at this once
            server.tell(path, ready=ready, now=now)
        return ready

    def _miss(self, url: str, server: Server, error: Exception) -> None:
        """Note a probe that was not answered: one that is late may be so because much is asked."""
        server.missed += 1
        if isinstance(error, TimeoutError) and server.missed < MISSES:
            server.doubt()
            return
        if server.alive:
            log.warning("%s does not answer: %s", url, type(error).__name__)
        server.died()

    async def _watch(self, target: Target, server: Server) -> None:
        while True:
            well = True
            for path in sorted(self._paths.get(target.url, ())):
                well = await self.look(target, server, path) and well
                if server.missed:
                    break
            server.troubled.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval if well else HURRY):
                    await server.troubled.wait()

    async def _ready(self, url: str) -> bool:
        async with self._session.get(url, timeout=self._timeout, allow_redirects=False) as answer:
            await answer.read()
            return answer.status == 200
