"""Probes every server periodically for the models that routes lead to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import aiohttp
import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_fleet.gateway.resolving import AddressResolver
    from mataserver_fleet.gateway.servers import Server, Servers
    from mataserver_fleet.gateway.snapshot import Snapshot, Target

RETRY_SECONDS, RETRY_PART = 0.25, 20
"""Seconds between two looks at a server that is in trouble: at first, and then that part of the
time since. A version that few servers have, for a share or a mirror, is missed by the others for as
long as it is tried out."""
MAX_LIST_BYTES = 1 << 24
"""Bytes of a mataserver's list of models."""
MAX_READY_BYTES = 1 << 16
"""Bytes of the word on whether a server or a model is ready, which is a status."""
LIVE_SECONDS = 0.5
"""Seconds that a server has to say that it is live, of which one model did not answer in time."""
MAX_MISSES = 2
"""Probes one after the other that a server may be late for until it is taken to be dead."""

log = logging.getLogger("mataserver.plugin.fleet")


class _Model(msgspec.Struct):
    model: str


class Prober:
    """One task a server. ``interval`` and ``timeout`` are in seconds.

    Whether a Triton is ready as a whole is not asked: it says no during every load. A mataserver
    is: it reports when it can serve nothing, and loads a model at its first request.

    own: whether this server itself has a model.
    """

    def __init__(
        self,
        servers: Servers,
        session: aiohttp.ClientSession,
        resolver: AddressResolver,
        has_own: Callable[[str], bool],
        interval: float = 1.0,
        timeout: float = 1.0,
    ) -> None:
        self._servers = servers
        self._session = session
        self._resolver = resolver
        self._has_own = has_own
        self._interval = interval
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._paths: dict[str, dict[str, str]] = {}
        self._tasks: dict[Target, asyncio.Task[None]] = {}

    def follow(self, snapshot: Snapshot) -> None:
        """Probe the servers of a snapshot, and no others.

        Those that lack a model are probed now: the change may be that they have it.
        """
        wanted: dict[Target, dict[str, str]] = {each: {} for each in snapshot.peers}
        for route in snapshot.routes():
            paths = {route.path(each, "ready"): route.model for each in route.versions()}
            for target in route.targets:
                wanted.setdefault(target, {}).update(paths)
        self._paths = {target.url: paths for target, paths in wanted.items()}
        self._servers.keep(self._paths)
        for target in [each for each in self._tasks if each not in wanted]:
            self._tasks.pop(target).cancel()
        for target, paths in wanted.items():
            server = self._servers.get(target)
            server.unready &= paths.keys()
            if target not in self._tasks:
                self._tasks[target] = asyncio.ensure_future(self._probe_forever(target, server))
            elif target.kind != "triton":
                self._update_models(target, server)
            elif server.unready:
                server.probe_now.set()

    async def close(self) -> None:
        """Stop all probes."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def probe(self, target: Target, server: Server, path: str) -> bool | None:
        """Probe a server now; return whether it serves a model, None where it did not say."""
        url, begun = target.url, self._servers.clock()
        said = True
        try:
            if target.kind == "triton":
                await self._resolver.check_literal(target)
                ready = await self._is_ready(url + path)
            else:
                server.models = await self._list_models(target)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            late = isinstance(error, TimeoutError)
            if not (late and target.kind == "triton" and await self._is_live(url)):
                if not late or begun >= server.missed_at:  # several that wait are late once
                    self._note_miss(url, server, error)
                return None
            ready, said = self._stays_ready(url, server, path, begun), False
        else:
            server.late.pop(path, None)
        now = self._servers.clock()
        server.mark_alive(now)
        if target.kind != "triton":
            self._update_models(target, server)
            return server.serves(path)
        if path in self._paths.get(url, ()):  # any other is looked at this once
            server.set_ready(path, ready=ready, now=now)
        return ready if said or ready else None

    def _stays_ready(self, url: str, server: Server, path: str, begun: float) -> bool:
        """Whether a model whose probe was late still counts as ready, if it was.

        It does once: it may be this gateway that was busy, and then every model of every server is
        late. ``begun`` is when the probe was: several that wait are late once.
        """
        if path not in self._paths.get(url, ()):
            return False
        first = server.late.setdefault(path, self._servers.clock())
        return begun < first and path not in server.unready

    async def says_not_ready(self, target: Target, server: Server, path: str) -> bool:
        """Whether a server that is asked now says that it has not a model.

        One that does not answer, or too late, has said nothing.
        """
        return await self.probe(target, server, path) is False

    def _update_models(self, target: Target, server: Server) -> None:
        """Note which models a mataserver has."""
        now = self._servers.clock()
        for path, model in self._paths.get(target.url, {}).items():
            has = self._has_own(model) if target.kind == "own" else model in server.models
            server.set_ready(path, ready=has, now=now)

    def _note_miss(self, url: str, server: Server, error: Exception) -> None:
        """Note a probe that was not answered: one that is late may be so because much is asked."""
        server.missed_probes += 1
        server.missed_at = self._servers.clock()
        if isinstance(error, TimeoutError) and server.missed_probes < MAX_MISSES:
            server.mark_suspect()
            return
        if server.is_alive:
            log.warning("%s does not answer: %s", url, type(error).__name__)
        server.mark_dead()

    async def _probe_forever(self, target: Target, server: Server) -> None:
        since = float("inf")
        while True:
            all_ready = await self._probe_all(target, server)
            now = self._servers.clock()
            since = float("inf") if all_ready else min(since, now)
            server.probe_now.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds_until_next(self._interval, now - since)):
                    await server.probe_now.wait()

    async def _probe_all(self, target: Target, server: Server) -> bool:
        """Look at a server once; return whether all of its models are there."""
        if target.kind != "triton":
            return bool(await self.probe(target, server, ""))
        all_ready = True
        for path in sorted(self._paths.get(target.url, ())):
            all_ready = bool(await self.probe(target, server, path)) and all_ready
            if server.missed_probes:
                break
        return all_ready

    async def _is_live(self, url: str) -> bool:
        """Whether a Triton itself answers: then it is one of its models that hangs."""
        limit = aiohttp.ClientTimeout(total=LIVE_SECONDS)
        try:
            return await self._is_ready(f"{url}/v2/health/live", limit)
        except (aiohttp.ClientError, OSError, ValueError):
            return False

    async def _is_ready(self, url: str, limit: aiohttp.ClientTimeout | None = None) -> bool:
        """Whether it is answered 200. Raises ``ValueError`` for an answer that has no end."""
        asking = self._session.get(url, timeout=limit or self._timeout, allow_redirects=False)
        async with asking as answer:
            left = MAX_READY_BYTES
            while piece := await answer.content.read(left):
                left -= len(piece)
                if not left:
                    raise ValueError("its readiness answer does not end")
            return answer.status == 200

    async def _list_models(self, target: Target) -> frozenset[str]:
        """Return the models of a mataserver: none while it is not ready. Raises ``ValueError``."""
        if target.kind == "own":
            return frozenset()
        await self._resolver.check_literal(target)
        if not await self._is_ready(f"{target.url}/ready"):
            return frozenset()
        asking = self._session.get(
            f"{target.url}/v1/models",
            timeout=self._timeout,
            allow_redirects=False,
            headers={"Authorization": f"Bearer {target.token}"} if target.token else {},
        )
        async with asking as answer:
            body = bytearray()
            async for piece in answer.content.iter_any():
                body += piece
                if answer.status != 200 or len(body) > MAX_LIST_BYTES:
                    raise ValueError(f"its list of models answers {answer.status}")
        try:
            return frozenset(each.model for each in msgspec.json.decode(body, type=list[_Model]))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError("its list of models is malformed") from error


def seconds_until_next(interval: float, trouble: float) -> float:
    """Return when a server is looked at again that has been in trouble for ``trouble`` seconds.

    Less than 0 for one that is not: after ``interval``, as for one that is so for long.
    """
    return interval if trouble < 0 else min(interval, max(RETRY_SECONDS, trouble / RETRY_PART))
