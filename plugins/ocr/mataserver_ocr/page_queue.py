"""Reads pages in a thread of its own, so that the server can hear and end what takes long.

A page may take minutes. Meanwhile the model's own thread tells the server that it works, and learns
that nobody waits for a page any more.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from mataserver import OcrResult

    Image = NDArray[np.uint8]
    Read = Callable[[Image, "Clock"], OcrResult]

BEAT = 0.25
"""Seconds from one sign of progress to the next, and until an abandoned page is noticed."""
SPARE = 10.0
"""Seconds that a reader may go on after its page's time: it may be in a run of a network."""


class Clock:
    """How long a page may be read: until its time is over, or nobody waits for it any more."""

    def __init__(self) -> None:
        # Two fields: the threads that start and stop it need no lock.
        self._end = self._stopped_at = inf

    def start(self, seconds: float) -> None:
        """Give the page ``seconds`` from now."""
        self._end = monotonic() + seconds

    def stop(self) -> None:
        """Leave the page no more time."""
        self._stopped_at = min(self._stopped_at, monotonic())

    @property
    def left(self) -> float:
        """The seconds that are left, 0 or more."""
        return max(0.0, min(self._end, self._stopped_at) - monotonic())

    @property
    def late(self) -> float:
        """The seconds since the end of the page's time, less than 0 before it.

        A page that was stopped is not late: its reader may be one that cannot be ended.
        """
        return monotonic() - self._end


class PageQueue:
    """Reads one page at a time; each has ``seconds`` from when its turn comes."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._thread = ThreadPoolExecutor(1, "page")
        self._unread: set[Future[OcrResult]] = set()
        self._running = Clock()

    def stream(self, picture: Callable[[], Image], read: Read) -> Iterator[str | OcrResult]:
        """Yield an empty text every ``BEAT`` seconds, and last what ``read`` returns.

        ``picture`` decodes the page, once its turn has come: what waits must not take its memory.
        ``read`` gets the image and the page's clock, and has to end when that is over. Closing the
        iterator stops the clock. A page that is late by over ``SPARE`` seconds hangs: nothing is
        yielded any more, so that the server ends the worker.
        """
        clock = Clock()
        page = self._thread.submit(self._read, picture, read, clock)
        self._unread.add(page)
        page.add_done_callback(self._unread.discard)
        try:
            while not page.done():
                # Any page: the model's thread takes turns with the streams of all.
                pages = {page, *self._unread}
                patience = BEAT / len(pages) if self._running.late < SPARE else None
                wait(pages, patience, FIRST_COMPLETED)
                if not page.done():
                    yield ""
            yield page.result()
        finally:
            page.cancel()
            clock.stop()

    def close(self) -> None:
        """Stop the page that is being read, and forget the others."""
        self._running.stop()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, picture: Callable[[], Image], read: Read, clock: Clock) -> OcrResult:
        self._running = clock
        clock.start(self._seconds)
        try:
            image = picture()
            clock.start(self._seconds)  # the server limits the time of decoding
            return read(image, clock)
        finally:
            # Nothing is late while nothing is read, however long ago this page's time was over.
            self._running = Clock()
