"""Streaming sessions: their limits, their expiry, and the models they hold."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from mataserver.errors import Conflict, NotFound, Unavailable
from mataserver.frontends.resource_ids import SESSIONS_KIND, ResourceIds
from mataserver.principals import ANONYMOUS
from mataserver.serving.frames import FrameSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mataserver.metrics import Metrics
    from mataserver.params.table import Params
    from mataserver.principals import Principal
    from mataserver.serving.feeds.camera import Camera
    from mataserver.serving.handle import Handle

    RequestClose = Callable[[int, str], None]
    """Requests the end of a session's socket, with a WebSocket close code and a reason."""

NORMAL = 1000

log = logging.getLogger("mataserver.sessions")


class Session(FrameSession):
    """A session: frames from client connections, or from a camera.

    Its counters cover its lifetime, across connections. With a ``camera`` it may have several
    connections, each with the id of its caller. A ``permanent`` session never expires. ``hold``
    keeps its model in memory. ``stream`` sends the pieces of a text as they are produced. ``owner``
    is the id of the owning principal, None for one of the configuration.
    """

    def __init__(
        self,
        handle: Handle,
        params: Params,
        session_id: str,
        hold: contextlib.AsyncExitStack,
        used_clock: float,
    ) -> None:
        super().__init__(handle, params, session_id)
        self.hold = hold
        self.used_clock = used_clock
        self.created_at = time.time()
        self.connections: dict[RequestClose, str | None] = {}
        self.camera: Camera | None = None
        self.detached = asyncio.Event()
        self.permanent = False
        self.stream = False
        self.owner: str | None = None

    def is_visible_to(self, principal: Principal) -> bool:
        """Whether it is visible to a principal: their own, unowned ones, and all for an admin."""
        return self.owner in {None, principal.id} or principal.may("admin")


class SessionStore:
    """The server's sessions. One without connections expires ``ttl`` s after its last use.

    ``limit`` is their number; ``share`` the part of it that one owner may have. ``held`` generates
    their ids, and announces chosen names to other front-ends.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        limit: int,
        ttl: float,
        held: ResourceIds | None = None,
        share: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._limit = limit
        self._share = share
        self.ttl = ttl
        self._ids = (held or ResourceIds()).of_kind(SESSIONS_KIND)
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._creating: list[str | None] = []
        self._releasing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._sessions)

    def all(self) -> list[Session]:
        """Return every session, oldest first, also those that are about to expire."""
        return list(self._sessions.values())

    def visible(self, principal: Principal) -> list[Session]:
        """Return the live sessions that ``get`` finds for a principal, oldest first."""
        return [s for s in self.all() if s.is_visible_to(principal) and not self._is_expired(s)]

    async def create(
        self,
        model: Handle,
        params: Params,
        *,
        name: str | None = None,
        owner: str | None = None,
    ) -> Session:
        """Load the model and create a session that holds it.

        A session with a ``name`` is permanent and exempt from the limits. Raises ``Unavailable`` at
        the limit, or at the owner's share of it, ``Conflict`` for a name in use, and whatever
        loading raises.
        """
        await self.expire()
        self._check_name(name)
        if name is None:
            self._check_room(owner)
            self._creating.append(owner)
        try:
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(model.hold())
                self._check_name(name)
                hold = stack.pop_all()
        finally:
            if name is None:
                self._creating.remove(owner)
        chosen = name or self._ids.make("sess_")
        session = Session(model, params, chosen, hold, self._clock())
        session.permanent, session.owner = name is not None, owner
        self._sessions[session.id] = session
        self._metrics.sessions.set(len(self._sessions))
        if name is not None:
            await self._ids.add(name)
        return session

    def _check_room(self, owner: str | None) -> None:
        """Raise ``Unavailable`` if there are too many sessions, or too many of one owner."""
        owners = [each.owner for each in self.all() if not each.permanent] + self._creating
        if len(owners) >= self._limit:
            raise Unavailable(f"Maximum concurrent sessions reached (limit: {self._limit})")
        if fair := self.exhausted_share(owner, owners, self._limit):
            raise Unavailable(f"Maximum concurrent sessions of one caller reached ({fair})")

    def exhausted_share(self, caller: str | None, held: Iterable[str | None], limit: int) -> int:
        """Return how many of ``limit`` one caller may hold, if this one does; else 0.

        ``held`` are the callers that hold one each. Those without keys are all the same one, and
        have no share of their own.
        """
        fair = max(1, int(limit * self._share + 1e-9))  # 0.29 of 100 is 28.999…
        is_full = caller not in {None, ANONYMOUS.id} and list(held).count(caller) >= fair
        return fair if is_full else 0

    def _check_name(self, name: str | None) -> None:
        """Raise ``Conflict`` if a session has that name."""
        if name in self._sessions:
            raise Conflict(f"there is a session {name} already")

    def get(self, session_id: str, principal: Principal = ANONYMOUS) -> Session:
        """Return a live session visible to a principal. Raises ``NotFound``."""
        session = self._sessions.get(session_id)
        if session is None or self._is_expired(session) or not session.is_visible_to(principal):
            raise NotFound(f"Session not found: {session_id[:64]}")
        return session

    def is_only_connected(self, session: Session) -> bool:
        """Whether no other session of its model is connected now."""
        return not any(
            other.connections and other.model == session.model and other is not session
            for other in self._sessions.values()
        )

    def attach(
        self, session: Session, request_close: RequestClose, caller: str | None = None
    ) -> None:
        """Register a socket of the session, which does not expire while it has one."""
        if not session.connections:
            self._metrics.connected.inc()
        session.connections[request_close] = caller
        session.detached.clear()

    def detach(self, session: Session, request_close: RequestClose) -> None:
        """Unregister a socket; after the last one the ttl starts."""
        del session.connections[request_close]
        self.touch(session)
        if not session.connections:
            session.detached.set()
            self._metrics.connected.dec()

    def touch(self, session: Session) -> None:
        """Record a use of the session, which restarts its ttl."""
        session.used_clock = self._clock()

    async def delete(self, session_id: str) -> None:
        """Remove a session: close its sockets, release its model, discard its state.

        Raises ``NotFound``, or ``Conflict`` for a permanent one.
        """
        session = self.get(session_id)
        if session.permanent:
            raise Conflict(f"{session.id} is a camera of the configuration: it cannot be deleted")
        await self._remove(session)

    async def drop(self, session_id: str) -> None:
        """Remove a session of the configuration, if it exists."""
        session = self._sessions.get(session_id)
        if session is not None:
            await self._remove(session)

    async def expire(self) -> None:
        """Remove expired sessions."""
        for session in self.all():
            if self._is_expired(session):
                log.info("session %s expired", session.id)
                await self._remove(session)

    async def watch(self) -> None:
        """Remove expired sessions periodically, forever."""
        while True:
            await asyncio.sleep(max(0.05, min(5.0, self.ttl / 4)))
            await self.expire()

    async def close(self) -> None:
        """Remove every session."""
        await asyncio.gather(*(self._remove(session) for session in self.all()))
        await asyncio.gather(*self._releasing)

    def _is_expired(self, session: Session) -> bool:
        if session.permanent or session.connections:
            return False
        return self._clock() - session.used_clock > self.ttl

    async def _remove(self, session: Session) -> None:
        """Remove a session; the release of its model continues if the caller is cancelled."""
        if self._sessions.pop(session.id, None) is None:
            return
        self._ids.discard(session.id)
        self._metrics.sessions.set(len(self._sessions))
        task = asyncio.get_running_loop().create_task(self._release(session))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)
        await asyncio.shield(task)

    async def _release(self, session: Session) -> None:
        # Close the sockets first: a frame after close_session would recreate the state in the
        # worker.
        for request_close in tuple(session.connections):
            request_close(NORMAL, "session deleted")
        if session.connections:
            await session.detached.wait()
        if session.camera is not None:
            await session.camera.close()
        try:
            await session.discard_state()
        finally:
            await session.hold.aclose()
