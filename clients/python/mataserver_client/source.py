"""The frames that a stream is fed with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Frames = Iterable[bytes] | AsyncIterable[bytes]
"""Encoded images, one after the other; a plain iterable is read in a thread."""
_END = object()


class Source:
    """Takes one frame after the other from a plain or an asynchronous iterable.

    ``in_thread`` runs a function that may block.

    A step that is under way outlives the task that waits for it: a lost connection neither loses
    a frame nor breaks the iterable.
    """

    def __init__(
        self,
        frames: Frames,
        in_thread: Callable[[Callable[[], object]], Awaitable[object]],
    ) -> None:
        self._in_thread = in_thread
        self._frames = aiter(frames) if isinstance(frames, AsyncIterable) else iter(frames)
        self._step: asyncio.Task[bytes | None] | None = None
        self._exhausted = False
        self.at_end = False
        """Whether the last frame was taken, as far as is known without asking for another."""

    async def next(self) -> bytes | None:
        """Return the next frame, or None after the last one. Raises what the iterable raises.

        ``TypeError`` is raised for what is no bytes, such as None.
        """
        if self._exhausted:
            return None
        if self._step is None:
            self._step = asyncio.create_task(self._advance())
        frame = await asyncio.shield(self._step)
        self._step = None
        self._exhausted = frame is None
        # A list's iterator tells; of a generator it is known only once it was asked again.
        left = getattr(self._frames, "__length_hint__", None)
        self.at_end = self._exhausted or (left is not None and left() == 0)
        return frame

    async def _advance(self) -> bytes | None:
        frame: object
        if isinstance(self._frames, AsyncIterable):
            frame = await anext(self._frames, _END)
        else:
            frame = await self._in_thread(partial(next, self._frames, _END))
        if frame is _END:
            return None
        if not isinstance(frame, (bytes, bytearray, memoryview)):
            raise TypeError(f"a frame is the bytes of an encoded image, not {type(frame).__name__}")
        return bytes(frame)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Drop a step that is under way; a thread that waits in the iterable ends by itself."""
        if self._step is not None:
            self._step.cancel()
            await asyncio.gather(self._step, return_exceptions=True)
