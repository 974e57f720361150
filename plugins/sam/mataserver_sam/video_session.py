"""What the server knows of one video session: its model, its state, and who is busy with it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mataserver import Conflict, MataError
from mataserver_sam.video_requests import Figures, SessionInfo, SessionStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from mataserver import ModelHandle
    from mataserver_sam.video_requests import Closed, Status, VideoInfo


@dataclass(slots=True)
class Session:
    """What the server knows of one session.

    ``owner`` is the id of whoever began it. ``loaded_at`` tells the worker that it lives in from
    later ones. ``idle`` is set while nothing is done with it, ``closing`` is there once it is to be
    closed.
    """

    id: str
    owner: str
    model: ModelHandle
    hold: contextlib.AsyncExitStack
    loaded_at: float | None
    info: VideoInfo
    created: datetime
    last_used: float
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

    @contextlib.contextmanager
    def lease_worker(self, clock: Callable[[], float], *, mend: bool = False) -> Iterator[None]:
        """Keep others from a self. Raises ``Conflict`` while it is busy or has failed.

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
            self.last_used = clock()
            self.idle.set()
