"""Streaming sessions: their limits, their expiry, and the model that each one holds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mataserver.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.metrics import Metrics
    from mataserver.pool import ModelPool, Recipe

log = logging.getLogger("mataserver.sessions")


@dataclass(slots=True, eq=False)
class Session:
    """One session. ``params`` is the backend's params struct as MessagePack."""

    id: str
    model: str
    recipe: Recipe
    params: bytes
    created_at: float
    seen: float
    hold: contextlib.AsyncExitStack
    connection: Any = None
    frames: int = 0
    dropped: int = 0
    results: int = 0
    reset: bool = False

    @property
    def task(self) -> str:
        """The session's task."""
        return self.recipe.spec.task


class SessionStore:
    """Every session of the server. One without a connection expires ``ttl`` s after it was seen."""

    def __init__(
        self,
        pool: ModelPool,
        metrics: Metrics,
        *,
        limit: int,
        ttl: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._metrics = metrics
        self._limit = limit
        self.ttl = ttl
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._creating = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def all(self) -> list[Session]:
        """Return every live session, oldest first."""
        return list(self._sessions.values())

    async def create(self, model: str, recipe: Recipe, params: bytes) -> Session:
        """Load the model and make a session that holds it.

        Raises ``Unavailable`` when there are too many, and whatever loading raises.
        """
        await self.expire()
        if len(self._sessions) + self._creating >= self._limit:
            raise Unavailable(f"Maximum concurrent sessions reached (limit: {self._limit})")
        self._creating += 1
        try:
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(self._pool.hold(recipe))
                hold = stack.pop_all()
        finally:
            self._creating -= 1
        now = self._clock()
        session = Session(
            "sess_" + secrets.token_hex(6), model, recipe, params, time.time(), now, hold
        )
        self._sessions[session.id] = session
        self._metrics.sessions.set(len(self._sessions))
        return session

    def get(self, session_id: str) -> Session:
        """Return a live session. Raises ``NotFound``."""
        session = self._sessions.get(session_id)
        if session is None or self._expired(session):
            raise NotFound(f"Session not found: {session_id[:64]}")
        return session

    def touch(self, session: Session) -> None:
        """Note that the session was seen."""
        session.seen = self._clock()

    async def delete(self, session_id: str) -> Session:
        """Remove a session: its model is released, its state forgotten. Raises ``NotFound``."""
        session = self.get(session_id)
        await self._remove(session)
        return session

    async def expire(self) -> None:
        """Remove the sessions whose time is over."""
        for session in self.all():
            if self._expired(session):
                log.info("session %s expired", session.id)
                await self._remove(session)

    async def watch(self) -> None:
        """Expire sessions for ever."""
        while True:
            await asyncio.sleep(max(0.05, min(5.0, self.ttl / 4)))
            await self.expire()

    async def close(self) -> None:
        """Remove every session."""
        for session in self.all():
            await self._remove(session)

    def _expired(self, session: Session) -> bool:
        return session.connection is None and self._clock() - session.seen > self.ttl

    async def _remove(self, session: Session) -> None:
        if self._sessions.pop(session.id, None) is None:
            return
        self._metrics.sessions.set(len(self._sessions))
        with contextlib.suppress(Unavailable):
            await self._pool.worker(session.recipe).close_session(session.id)
        await session.hold.aclose()
