"""Video sessions on their way: a name is taken from the first moment, and its worker is asked."""

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


class Starting(NamedTuple):
    """A session that is being opened; ``over`` is set when it is open or has failed."""

    owner: str
    over: asyncio.Event


class Openings:
    """The sessions that are being opened in the worker of ``served``, by their names."""

    def __init__(
        self, served: ServedModel, stopping: asyncio.Event, clock: Callable[[], float]
    ) -> None:
        self._served = served
        self._stopping = stopping
        self._clock = clock
        self._starting: dict[str, Starting] = {}

    def __len__(self) -> int:
        return len(self._starting)

    def owners(self) -> list[str]:
        """Return the owner of each of them."""
        return [each.owner for each in self._starting.values()]

    def __contains__(self, name: str) -> bool:
        return name in self._starting

    @contextlib.contextmanager
    def begun(self, name: str, owner: str) -> Iterator[None]:
        """Have a session stand among those that are being opened until the context ends."""
        starting = self._starting[name] = Starting(owner, asyncio.Event())
        try:
            yield
        finally:
            del self._starting[name]
            starting.over.set()

    async def wait(self, name: str, owner: str | None) -> None:
        """Wait until a session is open or has failed, if one of ``owner`` is being opened."""
        starting = self._starting.get(name)
        if starting is not None and owner in {None, starting.owner}:
            await starting.over.wait()

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
                hold=stack.pop_all(),
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
