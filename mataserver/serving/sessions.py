"""Streaming sessions: their limits, their expiry, and the model that each one holds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Protocol

from mataserver.errors import Conflict, NotFound, Unavailable
from mataserver.frontends.held import SESSIONS, HeldNames
from mataserver.principals import ANONYMOUS
from mataserver.serving.frames import FrameSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.metrics import Metrics
    from mataserver.params import Params
    from mataserver.principals import Principal
    from mataserver.serving.handle import Handle

NORMAL = 1000

log = logging.getLogger("mataserver.sessions")


class Connected(Protocol):
    """The open socket of a session."""

    def request_close(self, code: int, reason: str) -> None:
        """Have the connection end soon with a WebSocket close code."""
        ...


class Filming(Protocol):
    """Where the frames of a session come from, when no client sends them."""

    async def close(self) -> None:
        """Give the model no more frames."""
        ...


class Session(FrameSession):
    """One session of the server: frames that come over connections, or from a camera.

    Its counts are those since it began, over all its connections. One with a ``camera`` may have
    several connections. A ``permanent`` one never expires. ``hold`` keeps its model in memory.
    ``owner`` is the id of the principal whose it is, None for one of the configuration.
    """

    def __init__(
        self,
        handle: Handle,
        params: Params,
        session_id: str,
        hold: contextlib.AsyncExitStack,
        seen: float,
    ) -> None:
        super().__init__(handle, params, session_id)
        self.hold = hold
        self.seen = seen
        self.created_at = time.time()
        self.connections: list[Connected] = []
        self.camera: Filming | None = None
        self.detached = asyncio.Event()
        self.permanent = False
        self.stream = False
        self.owner: str | None = None

    def seen_by(self, principal: Principal) -> bool:
        """Whether a principal may know of it: their own, everybody's, and all for an admin."""
        return self.owner in {None, principal.id} or principal.may("admin")


class SessionStore:
    """Every session of the server. One without a connection expires ``ttl`` s after it was seen.

    ``held`` makes their ids, and tells other front-ends those that were chosen.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        limit: int,
        ttl: float,
        held: HeldNames | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._limit = limit
        self.ttl = ttl
        self._held = (held or HeldNames()).of(SESSIONS)
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._creating = 0
        self._releasing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._sessions)

    def all(self) -> list[Session]:
        """Return every live session, oldest first."""
        return list(self._sessions.values())

    async def create(
        self,
        model: Handle,
        params: Params,
        *,
        stream: bool = False,
        name: str | None = None,
        owner: str | None = None,
    ) -> Session:
        """Load the model and make a session that holds it.

        ``stream`` sends pieces of text while they are made. One with a ``name`` of its own is
        permanent and does not count against the limit.
        Raises ``Unavailable`` when there are too many, ``Conflict`` for a name that is in use, and
        whatever loading raises.
        """
        await self.expire()
        self._check_name(name)
        counted = sum(not session.permanent for session in self.all())
        if name is None and counted + self._creating >= self._limit:
            raise Unavailable(f"Maximum concurrent sessions reached (limit: {self._limit})")
        self._creating += name is None
        try:
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(model.held())
                self._check_name(name)
                hold = stack.pop_all()
        finally:
            self._creating -= name is None
        chosen = name or self._held.make("sess_")
        session = Session(model, params, chosen, hold, self._clock())
        session.stream, session.permanent, session.owner = stream, name is not None, owner
        self._sessions[session.id] = session
        self._metrics.sessions.set(len(self._sessions))
        if name is not None:
            await self._held.add(name)
        return session

    def _check_name(self, name: str | None) -> None:
        """Raise ``Conflict`` for the name of a session that is there."""
        if name in self._sessions:
            raise Conflict(f"there is a session {name} already")

    def get(self, session_id: str, principal: Principal = ANONYMOUS) -> Session:
        """Return a live session that a principal may know of. Raises ``NotFound``."""
        session = self._sessions.get(session_id)
        if session is None or self._expired(session) or not session.seen_by(principal):
            raise NotFound(f"Session not found: {session_id[:64]}")
        return session

    def alone(self, session: Session) -> bool:
        """Whether no other session of its model has a connection now."""
        return not any(
            other.connections and other.model == session.model and other is not session
            for other in self._sessions.values()
        )

    def attach(self, session: Session, connection: Connected) -> None:
        """Note that a socket serves the session: it does not expire while it does."""
        if not session.connections:
            self._metrics.connected.inc()
        session.connections.append(connection)
        session.detached.clear()

    def detach(self, session: Session, connection: Connected) -> None:
        """Note that a socket gives the model no more frames; after the last one begins the ttl."""
        session.connections.remove(connection)
        self.touch(session)
        if not session.connections:
            session.detached.set()
            self._metrics.connected.dec()

    def touch(self, session: Session) -> None:
        """Note that somebody asked for a session: its time to live begins anew."""
        session.seen = self._clock()

    async def delete(self, session_id: str) -> None:
        """Remove a session: its socket is closed, its model released, its state forgotten.

        Raises ``NotFound``, or ``Conflict`` for one that the configuration wants.
        """
        session = self.get(session_id)
        if session.permanent:
            raise Conflict(f"{session.id} is a camera of the configuration: it cannot be deleted")
        await self._remove(session)

    async def drop(self, session_id: str) -> None:
        """Remove a session of the configuration, if it is there."""
        session = self._sessions.get(session_id)
        if session is not None:
            await self._remove(session)

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
        await asyncio.gather(*(self._remove(session) for session in self.all()))
        await asyncio.gather(*self._releasing)

    def _expired(self, session: Session) -> bool:
        if session.permanent or session.connections:
            return False
        return self._clock() - session.seen > self.ttl

    async def _remove(self, session: Session) -> None:
        """Forget a session. Who stops waiting does not stop the release of its model."""
        if self._sessions.pop(session.id, None) is None:
            return
        self._held.discard(session.id)
        self._metrics.sessions.set(len(self._sessions))
        task = asyncio.get_running_loop().create_task(self._release(session))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)
        await asyncio.shield(task)

    async def _release(self, session: Session) -> None:
        # A frame that reached the worker after its session was closed there would make it anew.
        for connection in session.connections:
            connection.request_close(NORMAL, "session deleted")
        if session.connections:
            await session.detached.wait()
        if session.camera is not None:
            await session.camera.close()
        try:
            await session.forget()
        finally:
            await session.hold.aclose()
