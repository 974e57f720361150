"""Video sessions that are being opened: reserves their names, and opens them in the worker."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from mataserver import MataError
from mataserver_sam.video_session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from mataserver import ModelHandle
    from mataserver_sam.served import ServedModel
    from mataserver_sam.video_requests import VideoInfo


class PendingSession(NamedTuple):
    """A session that is being opened; ``done`` is set when it is open or has failed."""

    owner: str
    done: asyncio.Event


class PendingSessions:
    """The sessions that are being opened in the worker of ``served``, by name."""

    def __init__(
        self, served: ServedModel, stopping: asyncio.Event, clock: Callable[[], float]
    ) -> None:
        self._served = served
        self._stopping = stopping
        self._clock = clock
        self._pending: dict[str, PendingSession] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def owners(self) -> list[str]:
        """Return the owner of each of them."""
        return [each.owner for each in self._pending.values()]

    def __contains__(self, name: str) -> bool:
        return name in self._pending

    @contextlib.contextmanager
    def registered(self, name: str, owner: str) -> Iterator[None]:
        """Register a session as being opened until the context ends."""
        pending = self._pending[name] = PendingSession(owner, asyncio.Event())
        try:
            yield
        finally:
            del self._pending[name]
            pending.done.set()

    async def wait(self, name: str, owner: str | None) -> None:
        """Wait until a session is open or has failed, if one of ``owner`` is being opened."""
        pending = self._pending.get(name)
        if pending is not None and owner in {None, pending.owner}:
            await pending.done.wait()

    async def open(
        self,
        name: str,
        source: AbstractAsyncContextManager[Path],
        gpu_ids: list[int],
        owner: str,
    ) -> Session:
        """Return a session on the video of ``source``. Raises what that and the worker raise."""
        async with contextlib.AsyncExitStack() as stack, source as path:
            model = await stack.enter_async_context(self._served.acquire())
            loaded_at = self._served.loaded_at
            info = await _open_video(model, name, str(path), gpu_ids)
            session = Session(
                id=name,
                owner=owner,
                model=model,
                exit_stack=stack.pop_all(),
                loaded_at=loaded_at,
                info=info,
                created=datetime.now(UTC),
                last_used=self._clock(),
                clock=self._clock,
                stopping=self._stopping,
            )
        session.idle.set()
        return session


async def _open_video(model: ModelHandle, name: str, path: str, gpu_ids: list[int]) -> VideoInfo:
    """Open a video in the worker; if cancelled meanwhile, close it again."""
    opening = asyncio.ensure_future(model.call("video", "open", name, path, gpu_ids))
    try:
        info: VideoInfo = await asyncio.shield(opening)
    except asyncio.CancelledError:
        with contextlib.suppress(MataError):
            await opening
            await model.call("video", "close", name)
        raise
    return info
