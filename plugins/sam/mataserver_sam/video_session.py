"""What the server knows of one video session: its model, its state, and who is busy with it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mataserver import Conflict, MataError, NotFound, Unavailable
from mataserver_sam.video_requests import Figures, SessionInfo, SessionStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator
    from datetime import datetime

    from mataserver import ModelHandle
    from mataserver_sam.video_requests import (
        Closed,
        PropagateRequest,
        ReelRequest,
        Status,
        Step,
        VideoInfo,
    )


@dataclass(slots=True)
class Session:
    """What the server knows of one session, and what is asked of its worker.

    ``owner`` is the id of whoever began it. ``loaded_at`` tells the worker that it lives in from
    later ones. ``stopping`` is set once the server shuts down. ``idle`` is set while nothing is
    done with it, ``closing`` is there once it is to be closed.
    """

    id: str
    owner: str
    model: ModelHandle
    hold: contextlib.AsyncExitStack
    loaded_at: float | None
    info: VideoInfo
    created: datetime
    last_used: float
    clock: Callable[[], float]
    stopping: asyncio.Event
    status: Status = "ready"
    figures: Figures = field(default_factory=Figures)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    closing: asyncio.Task[Closed] | None = None

    def told(self) -> SessionStatus:
        """Return it as ``status`` tells it."""
        figures = self.figures
        return SessionStatus(
            self.id,
            self.status,
            figures.objects,
            figures.frames_processed,
            self.info.total_frames,
            figures.gpu_bytes / 1e6,
        )

    def listed(self) -> SessionInfo:
        """Return it as ``sessions`` tells it."""
        created = self.created.isoformat(timespec="seconds").replace("+00:00", "Z")
        return SessionInfo(self.id, "video", created, self.status, self.figures.objects)

    async def call(self, method: str, *args: Any, mend: bool = False) -> Any:
        """Have the worker do something to the session, which must not be busy."""
        with self.lease_worker(mend=mend):
            return await self.model.call("video", method, self.id, *args)

    async def propagate(self, asked: PropagateRequest) -> AsyncGenerator[Step, None]:
        """Yield frame after frame; each is computed when it is asked for.

        Raises ``NotFound`` when the session is closed meanwhile, ``Unavailable`` when the server
        shuts down.
        """
        async with contextlib.aclosing(self._items("propagate", asked)) as steps:
            async for step in steps:
                self.figures = step.figures
                yield step

    async def reel(self, asked: ReelRequest) -> AsyncGenerator[bytes, None]:
        """Yield a video with what was tracked drawn in, in pieces; many of them are empty.

        Raises as ``propagate``.
        """
        async with contextlib.aclosing(self._items("reel", asked)) as pieces:
            async for piece in pieces:
                yield piece

    async def _items(self, method: str, asked: Any) -> AsyncGenerator[Any, None]:
        """Yield what the worker yields for the session, which is busy until the end."""
        check_running(self.stopping)
        with self.lease_worker():
            stream = self.model.stream("video_stream", method, self.id, asked)
            async with contextlib.aclosing(stream) as items:  # type: ignore[type-var]
                async for item in items:
                    self.last_used = self.clock()
                    yield item
                    if self.closing is not None:
                        raise NotFound(f"Session {self.id} was closed")
                    check_running(self.stopping)

    @contextlib.contextmanager
    def lease_worker(self, *, mend: bool = False) -> Iterator[None]:
        """Keep others from the session. Raises ``Conflict`` while it is busy or has failed.

        ``mend``: what is done brings a session that has failed back.
        """
        if not self.idle.is_set() or self.closing is not None:
            raise Conflict(f"Session {self.id} is busy")
        if self.status == "error" and not mend:
            raise Conflict(f"Session {self.id} has failed: reset or close it")
        self.status = "processing"
        self.idle.clear()
        try:
            yield
        except MataError as error:
            self.status = "error" if error.status >= 500 else "ready"
            raise
        finally:
            if self.status == "processing":
                self.status = "ready"
            self.last_used = self.clock()
            self.idle.set()


def check_running(stopping: asyncio.Event) -> None:
    """Raise ``Unavailable`` once the server shuts down."""
    if stopping.is_set():
        raise shutting_down()


def shutting_down() -> Unavailable:
    """Return the error of what a server that shuts down does not do, or not to its end."""
    return Unavailable("The server is shutting down", retry_after=5)
