"""The server's side of video sessions: limits, ownership, and expiry.

The sessions themselves live in the model's worker. Each holds the model in memory; when its worker
dies the session is lost, and its resources here are released.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Self

from mataserver import Conflict, MataError, NotFound, Unavailable
from mataserver_sam.callers import Caller
from mataserver_sam.ended_sessions import EndedSessions
from mataserver_sam.pending_sessions import PendingSessions
from mataserver_sam.video_check import VideoCheck
from mataserver_sam.video_requests import Closed, SessionUsage, Started
from mataserver_sam.video_session import check_running, worker_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from aiohttp import web

    from mataserver import Context
    from mataserver_sam.callers import Key
    from mataserver_sam.served import ServedModel
    from mataserver_sam.video_requests import SessionStatus, StartRequest, Status
    from mataserver_sam.video_session import Session
    from mataserver_sam.video_sources import VideoSources


_EVERYONE = Caller(sees_all=True)


class VideoSessions:
    """Every session of the server, as an async context manager that closes them on exit.

    Each caller names its own. Where a ``caller`` is given, sessions that it may not see are treated
    as absent.
    """

    def __init__(
        self,
        ctx: Context,
        served: ServedModel,
        sources: VideoSources,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = ctx.log
        self._stopping = ctx.stopping
        self._held = ctx.held
        self._limit: int = ctx.settings.max_sessions
        share = 1.0 if ctx.server.auth_mode == "none" else ctx.server.caller_share
        self._fair = max(1, int(self._limit * share + 1e-9))  # 0.29 of 100 is 28.999…
        self._ttl: float = ctx.settings.session_ttl_s
        self._served = served
        self._sources = sources
        self._clock = clock
        self._open: dict[Key, Session] = {}
        self._pending = PendingSessions(served, VideoCheck(ctx).check, ctx.stopping, clock)
        self._ended = EndedSessions()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Start."""
        self._sources.remove_leftovers()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close every session."""
        for task in self._tasks:
            task.cancel()
        closing = [self._closed(session) for session in self._open.values()]
        await asyncio.gather(*self._tasks, *closing, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._open)

    def all(self, caller: Caller = _EVERYONE) -> list[Session]:
        """Return the open sessions, without those whose worker died."""
        alive = [each for each in list(self._open.values()) if self._is_alive(each)]
        return [each for each in alive if caller.may_see(each.owner)]

    def get(self, name: str, caller: Caller) -> Session:
        """Return an open session. Raises ``NotFound``, and ``Conflict`` as ``_find``."""
        session, ended = self._find(name, caller)
        if session is not None:
            return session
        if ended is not None and ended.status == "error":
            raise NotFound(f"Session {name} is lost: the model's worker ended")
        raise NotFound(f"Session not found: {name[:128]}")

    def status(self, name: str, caller: Caller) -> SessionStatus:
        """Return the status of a session, also of one that has ended. Raises as ``get``."""
        session, ended = self._find(name, caller)
        if session is not None:
            return session.status_report()
        if ended is None:
            raise NotFound(f"Session not found: {name[:128]}")
        return ended

    def _find(self, name: str, caller: Caller) -> tuple[Session | None, SessionStatus | None]:
        """Return an open session, or the final status of an ended one; neither if unknown.

        The caller's own comes first, also when it has ended or is being opened: whoever closes one
        twice must not close another's. Raises ``Conflict`` for several other callers' sessions.
        """
        own = caller.id, name
        if own not in self._open and (own in self._ended or own in self._pending):
            return None, self._ended.status(name, Caller(caller.id))
        found = [each for each in caller.find(self._open, name) if self._is_alive(each)]
        if len(found) > 1:
            raise Conflict(f"Several callers have a session {name}: only its owner can use it")
        return (found[0], None) if found else (None, self._ended.status(name, caller))

    async def start(self, asked: StartRequest, owner: str = "") -> Started:
        """Open the video that a request refers to; see ``open``."""
        source = self._sources.file(asked)
        return await self.open(asked.session_id, source, asked.gpu_ids or [], owner)

    async def upload(self, name: str | None, request: web.Request, owner: str) -> Started:
        """Open the video in the body of a request or in its form; see ``open``."""
        self._served.name()  # fails before a large body is read if there is no model
        return await self.open(name, self._sources.upload(request), [], owner)

    async def open(
        self,
        wanted: str | None,
        source: AbstractAsyncContextManager[Path],
        gpu_ids: list[int],
        owner: str,
    ) -> Started:
        """Open the video of ``source`` in a new session of ``owner``, named ``wanted`` if given.

        Raises ``Conflict`` for an id that is in use, ``Unavailable`` when there are too many
        sessions or no model, and what the video's source and the worker raise.
        """
        check_running(self._stopping)
        name = wanted or self._held.make("session-", 16)
        key = owner, name
        if key in self._open or key in self._pending:
            raise Conflict(f"Session {name} exists already")
        self._check_room(owner)
        with self._pending.registered(key):
            try:
                if wanted:  # before it is open, because a client may close it by its name already
                    await self._held.add(name, owner)
                self._open[key] = await self._pending.open(key, source, gpu_ids)
            finally:
                if key not in self._open:
                    self._held.discard(name, owner)
        if self._ended.forget(key):  # an ended session of this owner had the same name
            self._held.discard(name, owner)
        return Started(name, self._open[key].info)

    def _check_room(self, owner: str) -> None:
        """Raise ``Unavailable`` when there are too many sessions, or too many of one owner."""
        owners = [each.owner for each in self._open.values()] + self._pending.owners()
        if len(owners) >= self._limit:
            raise Unavailable(f"Maximum concurrent sessions reached ({self._limit})", retry_after=5)
        if owners.count(owner) >= self._fair:
            told = f"Maximum concurrent sessions of one caller reached ({self._fair})"
            raise Unavailable(told, retry_after=5)

    async def picture(self, session: Session, frame: int) -> bytes:
        """Return a frame as a JPEG, even while the session is busy.

        Raises ``NotFound`` when the session is closed meanwhile, and what the worker raises.
        """
        session.last_used = self._clock()
        async with self._served.acquire() as model:  # the session's own may end during the call
            jpeg: bytes = await model.call("video", "picture", worker_id(session.key), frame)
        return jpeg

    async def close(self, name: str, caller: Caller) -> Closed:
        """Close a session after its current work; a propagation stops at its current frame.

        It is closed even if the caller is cancelled, and one that is being opened as soon as it is
        open: a client that named it need not wait for the answer. Raises as ``get``.
        """
        if (caller.id, name) not in self._open:
            await self._pending.wait(name, caller)
        return await self._closed(self.get(name, caller))

    async def _closed(self, session: Session) -> Closed:
        if session.closing is None:
            session.closing = asyncio.create_task(self._close(session))
        return await asyncio.shield(session.closing)

    async def _close(self, session: Session) -> Closed:
        await session.idle.wait()
        freed = session.figures.total_bytes
        with contextlib.suppress(MataError):  # a worker that died has freed everything
            freed = await session.model.call("video", "close", worker_id(session.key))
        self._end_session(session, "closed")
        await session.exit_stack.aclose()
        return Closed(session.id, "closed", freed / 1e6)

    def _end_session(self, session: Session, status: Status) -> None:
        """Remove an open session, and keep its final status."""
        self._open.pop(session.key, None)
        session.status = status
        session.figures = SessionUsage(frames_processed=session.figures.frames_processed)
        for forgotten in self._ended.add(session):
            if forgotten not in self._open:
                owner, name = forgotten
                self._held.discard(name, owner)

    def _is_alive(self, session: Session) -> bool:
        """Whether the worker of a session is alive; if not, release the session's resources."""
        if session.loaded_at is not None and self._served.loaded_at == session.loaded_at:
            return True
        if session.closing is None:
            self._log.warning("video session %s is lost: its worker ended", session.id)
            self._end_session(session, "error")
            self._spawn(session.exit_stack.aclose())
        return False

    async def close_expired(self) -> None:
        """Periodically close unused sessions, and detect lost ones; runs until cancelled."""
        while True:
            await asyncio.sleep(min(self._ttl / 4, 5.0))
            for session in self.all():
                unused = session.idle.is_set() and session.last_used < self._clock() - self._ttl
                if unused and self._open.get(session.key) is session:  # not lost meanwhile
                    self._log.info("video session %s expired", session.id)
                    with contextlib.suppress(MataError):
                        await self._closed(session)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
