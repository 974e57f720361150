"""Which frames of a stream are on their way, and which frame an answer belongs to.

The server numbers the frames that it received; of the frames that wait it keeps the newest, so
numbers are missing in its answers and an answer to one frame settles all before it. After a lost
connection it is unknown how many frames arrived: one frame alone goes ahead then, and its answer
tells the server's count.
"""

from __future__ import annotations

import asyncio


class InFlightFrames:
    """The numbering of one stream. Indices count the frames of the source, from 0.

    ``window`` is the number of frames that may be on their way, None for any; ``fresh`` says that
    the session has seen no frame yet; ``grace`` is how many seconds without an answer make the
    frames on their way count as lost, None for ever.
    """

    def __init__(self, window: int | None, *, fresh: bool, grace: float | None = None) -> None:
        if window is not None and window < 1:
            raise ValueError("window must be at least 1, or None")
        self.newest: bytes = b""
        self._window = window
        self._grace = grace
        self._offset = 0 if fresh else None
        self._sent_count = 0
        self._answered_count = 0
        self._answered = asyncio.Event()

    @property
    def pending(self) -> int:
        """Frames sent of which nothing is known."""
        return self._sent_count - self._answered_count

    @property
    def is_full(self) -> bool:
        """Whether the next frame has to wait."""
        window = 1 if self._offset is None else self._window
        return window is not None and self.pending >= window

    async def wait_for_room(self) -> None:
        """Wait until the next frame may be sent."""
        while self.is_full:
            await self._wait_for_answer()

    async def wait_until_empty(self) -> None:
        """Wait until nothing is on its way."""
        while self.pending:
            await self._wait_for_answer()

    def note_sent(self, frame: bytes) -> None:
        """Count a frame that is about to be sent."""
        self._sent_count += 1
        self.newest = frame

    def note_answer(self, frame_id: int) -> int:
        """Take note of the answer to the server's frame ``frame_id``; return our index of it."""
        newest = self._sent_count - 1
        if self._offset is None:
            self._offset = frame_id - newest
        if frame_id - self._offset > newest:  # it counted a frame that we believed lost
            self._offset = frame_id - newest
        index = max(0, frame_id - self._offset)
        self._answered_count = min(self._sent_count, max(self._answered_count, index + 1))
        if not self.pending:
            self.newest = b""
        self._answered.set()
        return index

    def drop_unanswered(self) -> None:
        """Give up the frames on their way, except the newest, which is to be sent again."""
        self._offset = None
        self._answered_count = max(self._answered_count, self._sent_count - 1)

    async def _wait_for_answer(self) -> None:
        self._answered.clear()
        try:
            async with asyncio.timeout(self._grace):
                await self._answered.wait()
        except TimeoutError:
            self._answered_count = self._sent_count
