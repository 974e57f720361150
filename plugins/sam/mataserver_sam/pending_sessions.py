"""Video sessions that are being opened: reserves their names, and opens them in the worker."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mataserver import MataError, wait_out
from mataserver_sam.video_session import Session, worker_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from mataserver import ModelHandle
    from mataserver_sam.callers import Caller, Key
    from mataserver_sam.served import ServedModel
    from mataserver_sam.video_requests import VideoInfo


class PendingSessions:
    """The sessions that are being opened in the worker of ``served``, by owner and name.

    The event of each is set when it is open or has failed. ``check`` refuses files for which the
    model need not be loaded.
    """

    def __init__(
        self,
        served: ServedModel,
        check: Callable[[Path], Awaitable[None]],
        stopping: asyncio.Event,
        clock: Callable[[], float],
    ) -> None:
        self._served = served
        self._check = check
        self._stopping = stopping
        self._clock = clock
        self._pending: dict[Key, asyncio.Event] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def owners(self) -> list[str]:
        """Return the owner of each of them."""
        return [owner for owner, _ in self._pending]

    def __contains__(self, key: Key) -> bool:
        return key in self._pending

    @contextlib.contextmanager
    def registered(self, key: Key) -> Iterator[None]:
        """Register a session as being opened until the context ends."""
        done = self._pending[key] = asyncio.Event()
        try:
            yield
        finally:
            del self._pending[key]
            done.set()

    async def wait(self, name: str, caller: Caller) -> None:
        """Wait until a session is open or has failed, if one of that name is being opened."""
        for done in caller.find(self._pending, name):
            await done.wait()

    async def open(
        self,
        key: Key,
        source: AbstractAsyncContextManager[Path],
        gpu_ids: list[int],
    ) -> Session:
        """Return a session on the video of ``source``. Raises what that and the worker raise."""
        owner, name = key
        async with contextlib.AsyncExitStack() as stack, source as path:
            if not self._served.in_memory:
                await self._check(path)
            model = await stack.enter_async_context(self._served.acquire())
            loaded_at = self._served.loaded_at
            info = await _open_video(model, worker_id(key), str(path), gpu_ids)
            session = Session(
                id=name,
                owner=owner,
                served=self._served,
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
        await wait_out(asyncio.ensure_future(_close_opened(model, name, opening)))
        raise
    return info


async def _close_opened(model: ModelHandle, name: str, opening: asyncio.Future[VideoInfo]) -> None:
    with contextlib.suppress(MataError):
        await opening
        await model.call("video", "close", name)
