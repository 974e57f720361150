"""The server's side of video sessions: who may exist, who is busy, who ends when.

The sessions themselves live in the model's worker. Each holds the model in memory; when its worker
dies the session is gone, and what is kept here of it is released.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from mataserver import Conflict, MataError, NotFound, Unavailable
from mataserver_sam.video_requests import Closed, Figures, Started
from mataserver_sam.video_session import Session

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from aiohttp import web

    from mataserver import Context, ModelHandle
    from mataserver_sam.served import ServedModel
    from mataserver_sam.video_requests import (
        PropagateRequest,
        ReelRequest,
        SessionStatus,
        StartRequest,
        Status,
        Step,
        VideoInfo,
    )
    from mataserver_sam.video_sources import VideoSources

REMEMBERED = 1_000
"""Sessions that have ended whose status can still be asked for."""


class Ended(NamedTuple):
    """What is known of a session that has ended."""

    owner: str
    status: SessionStatus


class Starting(NamedTuple):
    """A session that is being opened; ``over`` is set when it is open or has failed."""

    owner: str
    over: asyncio.Event


class VideoSessions:
    """Every session of the server, as an async context manager that closes them at its end.

    Where an ``owner`` is given, sessions of others are as if they were not there.
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
        self._ttl: float = ctx.settings.session_ttl_s
        self._served = served
        self._sources = sources
        self._clock = clock
        self._open: dict[str, Session] = {}
        self._starting: dict[str, Starting] = {}
        self._ended: OrderedDict[str, Ended] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Begin to close sessions that nobody uses."""
        self._sources.sweep()
        self._run(self._watch())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close every session."""
        for task in self._tasks:
            task.cancel()
        closing = [self.close(name) for name in self._open]
        await asyncio.gather(*self._tasks, *closing, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._open)

    def all(self, owner: str | None = None) -> list[Session]:
        """Return the sessions that are open; those whose worker died are not."""
        for session in list(self._open.values()):
            self._check(session)
        return [each for each in self._open.values() if owner in {None, each.owner}]

    def get(self, name: str, owner: str | None = None) -> Session:
        """Return an open session. Raises ``NotFound``."""
        session, ended = self._find(name, owner)
        if session is not None:
            return session
        if ended is not None and ended.status == "error":
            raise NotFound(f"Session {name} is lost: the model's worker ended")
        raise NotFound(f"Session not found: {name[:128]}")

    def status(self, name: str, owner: str | None = None) -> SessionStatus:
        """Return the status of a session, also of one that has ended. Raises ``NotFound``."""
        session, ended = self._find(name, owner)
        if session is not None:
            return session.told()
        if ended is None:
            raise NotFound(f"Session not found: {name[:128]}")
        return ended

    def _find(self, name: str, owner: str | None) -> tuple[Session | None, SessionStatus | None]:
        """Return a session that is open, or how one has ended; neither where there is none."""
        session = self._open.get(name)
        if session is not None and self._check(session):
            return (session if owner in {None, session.owner} else None), None
        ended = self._ended.get(name)
        return None, (ended.status if ended and owner in {None, ended.owner} else None)

    async def start(self, asked: StartRequest, owner: str = "") -> Started:
        """Open the video that a request names; see ``open``."""
        source = self._sources.file(asked)
        return await self.open(asked.session_id, source, asked.gpu_ids or [], owner)

    async def upload(self, name: str | None, request: web.Request, owner: str) -> Started:
        """Open the video that a request is, or holds in its form; see ``open``."""
        self._served.name()  # without a model nobody waits for a large body
        return await self.open(name, self._sources.sent(request), [], owner)

    async def open(
        self,
        wanted: str | None,
        source: AbstractAsyncContextManager[Path],
        gpu_ids: list[int],
        owner: str,
    ) -> Started:
        """Open the video in a file in a new session of ``owner``, called ``wanted`` if given.

        Raises ``Conflict`` for an id that is in use, ``Unavailable`` when there are too many
        sessions or no model, and what the video's source and the worker raise.
        """
        self._check_running()
        name = wanted or self._held.make("session-", 16)
        if name in self._open or name in self._starting:
            raise Conflict(f"Session {name} exists already")
        if len(self._open) + len(self._starting) >= self._limit:
            raise Unavailable(f"Maximum concurrent sessions reached ({self._limit})", retry_after=5)
        begun = self._starting[name] = Starting(owner, asyncio.Event())
        try:
            if wanted:  # before it is open: it may be closed by its name already
                await self._held.add(name)
            session = self._open[name] = await self._begin(name, source, gpu_ids, owner)
        finally:
            del self._starting[name]
            begun.over.set()
            if name not in self._open:
                self._held.discard(name)
        if self._ended.pop(name, None) is not None:  # which had it, too
            self._held.discard(name)
        return Started(name, session.info)

    async def _begin(
        self,
        name: str,
        source: AbstractAsyncContextManager[Path],
        gpu_ids: list[int],
        owner: str,
    ) -> Session:
        async with contextlib.AsyncExitStack() as stack, source as path:
            model = await stack.enter_async_context(self._served.acquire())
            loaded_at = self._loaded_at()
            info = await _open_video(model, name, str(path), gpu_ids)
            session = Session(
                id=name,
                owner=owner,
                model=model,
                hold=stack.pop_all(),
                loaded_at=loaded_at,
                info=info,
                created=datetime.now(UTC),
                last_used=self._clock(),
            )
        session.idle.set()
        return session

    async def picture(self, session: Session, frame: int) -> bytes:
        """Return a frame as a JPEG, whatever else is done with the session.

        Raises ``NotFound`` when the session is closed meanwhile, and what the worker raises.
        """
        session.last_used = self._clock()
        async with self._served.acquire() as model:  # the session's own may end while it is asked
            jpeg: bytes = await model.call("video", "picture", session.id, frame)
        return jpeg

    async def call(self, session: Session, method: str, *args: Any, mend: bool = False) -> Any:
        """Have the worker do something to a session that is not busy."""
        with session.lease_worker(self._clock, mend=mend):
            return await session.model.call("video", method, session.id, *args)

    async def propagate(
        self, session: Session, asked: PropagateRequest
    ) -> AsyncGenerator[Step, None]:
        """Yield frame after frame; each is computed when it is asked for.

        Raises ``NotFound`` when the session is closed meanwhile, ``Unavailable`` when the server
        shuts down.
        """
        async with contextlib.aclosing(self._items(session, "propagate", asked)) as steps:
            async for step in steps:
                session.figures = step.figures
                yield step

    async def reel(self, session: Session, asked: ReelRequest) -> AsyncGenerator[bytes, None]:
        """Yield a video with what was tracked drawn in, in pieces; many of them are empty.

        Raises as ``propagate``.
        """
        async with contextlib.aclosing(self._items(session, "reel", asked)) as pieces:
            async for piece in pieces:
                yield piece

    async def _items(self, session: Session, method: str, asked: Any) -> AsyncGenerator[Any, None]:
        """Yield what the worker yields for a session, which is busy until the end."""
        self._check_running()
        with session.lease_worker(self._clock):
            stream = session.model.stream("video_stream", method, session.id, asked)
            async with contextlib.aclosing(stream) as items:  # type: ignore[type-var]
                async for item in items:
                    session.last_used = self._clock()
                    yield item
                    if session.closing is not None:
                        raise NotFound(f"Session {session.id} was closed")
                    self._check_running()

    def _check_running(self) -> None:
        if self._stopping.is_set():
            raise shutting_down()

    async def close(self, name: str, owner: str | None = None) -> Closed:
        """Close a session after what is being done with it; a propagation stops at its frame.

        It is closed even if nobody waits for that any more, and one that is being opened as soon
        as it is open: who gave it its name may end it without the answer. Raises ``NotFound``.
        """
        starting = self._starting.get(name)
        if starting is not None and owner in {None, starting.owner}:
            await starting.over.wait()
        session = self.get(name, owner)
        if session.closing is None:
            session.closing = asyncio.create_task(self._close(session))
        return await asyncio.shield(session.closing)

    async def _close(self, session: Session) -> Closed:
        await session.idle.wait()
        freed = session.figures.total_bytes
        with contextlib.suppress(MataError):  # a worker that died has freed everything
            freed = await session.model.call("video", "close", session.id)
        self._bury(session, "closed")
        await session.hold.aclose()
        return Closed(session.id, "closed", freed / 1e6)

    def _bury(self, session: Session, status: Status) -> None:
        """Take a session from those that are open, and remember how it ended."""
        self._open.pop(session.id, None)
        session.status = status
        session.figures = Figures(frames_processed=session.figures.frames_processed)
        self._ended[session.id] = Ended(session.owner, session.told())
        while len(self._ended) > REMEMBERED:
            forgotten, _ = self._ended.popitem(last=False)
            if forgotten not in self._open:
                self._held.discard(forgotten)

    def _check(self, session: Session) -> bool:
        """Whether the worker of a session still lives; if not, release what is kept of it."""
        if session.loaded_at is not None and self._loaded_at() == session.loaded_at:
            return True
        if session.closing is None:
            self._log.warning("video session %s is lost: its worker ended", session.id)
            self._bury(session, "error")
            self._run(session.hold.aclose())
        return False

    def _loaded_at(self) -> float | None:
        info = self._served.info()
        return None if info is None else info.loaded_at

    async def _watch(self) -> None:
        """Close what nobody used for too long, and find what is lost."""
        while True:
            await asyncio.sleep(min(self._ttl / 4, 5.0))
            old = self._clock() - self._ttl
            for session in self.all():
                if session.idle.is_set() and session.last_used < old:
                    self._log.info("video session %s expired", session.id)
                    with contextlib.suppress(MataError):
                        await self.close(session.id)

    def _run(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _open_video(model: ModelHandle, name: str, path: str, gpu_ids: list[int]) -> VideoInfo:
    """Open a video in the worker; if nobody waits for that any more, close it again."""
    opening = asyncio.ensure_future(model.call("video", "open", name, path, gpu_ids))
    try:
        info: VideoInfo = await asyncio.shield(opening)
    except asyncio.CancelledError:
        with contextlib.suppress(MataError):
            await opening
            await model.call("video", "close", name)
        raise
    return info


def shutting_down() -> Unavailable:
    """Return the error of what a server that shuts down does not do, or not to its end."""
    return Unavailable("The server is shutting down", retry_after=5)
