"""The server's view of one video session: its model, its status, and whether it is busy."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mataserver import Conflict, MataError, NotFound, Unavailable
from mataserver_sam.video_requests import SessionInfo, SessionStatus, SessionUsage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator
    from datetime import datetime

    from mataserver import ModelHandle
    from mataserver_sam.callers import Key
    from mataserver_sam.served import ServedModel
    from mataserver_sam.video_requests import (
        AnnotatedVideoRequest,
        Closed,
        PropagateRequest,
        Status,
        Step,
        VideoInfo,
    )


@dataclass(slots=True)
class Session:
    """One session, and the calls of its worker.

    ``owner`` is the id of the principal that started it. ``loaded_at`` identifies the worker that
    it lives in. ``stopping`` is set once the server shuts down. ``idle`` is set while the session
    is not in use, ``closing`` exists once it is being closed.
    """

    id: str
    owner: str
    served: ServedModel
    model: ModelHandle
    exit_stack: contextlib.AsyncExitStack
    loaded_at: float | None
    info: VideoInfo
    created: datetime
    last_used: float
    clock: Callable[[], float]
    stopping: asyncio.Event
    status: Status = "ready"
    figures: SessionUsage = field(default_factory=SessionUsage)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    closing: asyncio.Task[Closed] | None = None

    @property
    def key(self) -> Key:
        """Its owner and its id, which no other session has both of."""
        return self.owner, self.id

    def status_report(self) -> SessionStatus:
        """Return the answer of ``status``."""
        figures = self.figures
        return SessionStatus(
            self.id,
            self.status,
            figures.objects,
            figures.frames_processed,
            self.info.total_frames,
            figures.gpu_bytes / 1e6,
        )

    def list_entry(self) -> SessionInfo:
        """Return its entry in the answer of ``sessions``."""
        created = self.created.isoformat(timespec="seconds").replace("+00:00", "Z")
        return SessionInfo(self.id, "video", created, self.status, self.figures.objects)

    def note(self, figures: SessionUsage) -> None:
        """Keep the worker's figures."""
        self.figures = figures
        self.served.gpu_memory = figures.gpus

    async def call(self, method: str, *args: Any, repair: bool = False) -> Any:
        """Call the worker for the session, which must not be busy."""
        with self.lease_worker(repair=repair):
            return await self.model.call("video", method, worker_id(self.key), *args)

    async def propagate(self, asked: PropagateRequest) -> AsyncGenerator[Step, None]:
        """Yield frame after frame; each is computed on demand.

        Raises ``NotFound`` when the session is closed meanwhile, ``Unavailable`` when the server
        shuts down.
        """
        async with contextlib.aclosing(self._items("propagate", asked)) as steps:
            async for step in steps:
                self.note(step.figures)
                yield step

    async def annotated_video(self, asked: AnnotatedVideoRequest) -> AsyncGenerator[bytes, None]:
        """Yield a video with the tracked objects drawn in, in chunks; many of them are empty.

        Raises as ``propagate``.
        """
        async with contextlib.aclosing(self._items("annotated_video", asked)) as pieces:
            async for piece in pieces:
                yield piece

    async def _items(self, method: str, asked: Any) -> AsyncGenerator[Any, None]:
        """Yield the worker's items for the session, which is busy until the end."""
        check_running(self.stopping)
        with self.lease_worker():
            stream = self.model.stream("video_stream", method, worker_id(self.key), asked)
            async with contextlib.aclosing(stream) as items:  # type: ignore[type-var]
                async for item in items:
                    self.last_used = self.clock()
                    yield item
                    if self.closing is not None:
                        raise NotFound(f"Session {self.id} was closed")
                    check_running(self.stopping)

    @contextlib.contextmanager
    def lease_worker(self, *, repair: bool = False) -> Iterator[None]:
        """Mark the session as busy. Raises ``Conflict`` while it is busy or has failed.

        ``repair``: the call brings a failed session back.
        """
        if not self.idle.is_set() or self.closing is not None:
            raise Conflict(f"Session {self.id} is busy")
        if self.status == "error" and not repair:
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


def worker_id(key: Key) -> str:
    """Return the id of a session in the worker, which knows no owners; the name is its end."""
    return "/".join(key)


def check_running(stopping: asyncio.Event) -> None:
    """Raise ``Unavailable`` once the server shuts down."""
    if stopping.is_set():
        raise shutdown_error()


def shutdown_error() -> Unavailable:
    """Return the error for work that a shutdown prevents or interrupts."""
    return Unavailable("The server is shutting down", retry_after=5)
