"""Threads that decode what waits for the model's thread."""

from __future__ import annotations

import queue
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mataserver.engines.host import Decoded
    from mataserver.engines.work import Job

MOST = 8


@dataclass(slots=True)
class DecodedBatch:
    """Jobs that run together, and what they decoded to."""

    request: int
    jobs: Sequence[Job]
    decoded: list[Decoded] | None = None


class Decoders:
    """At most ``limit`` threads, started when there is something for them to do.

    ``decode`` runs in several threads at once and must not raise. ``ring`` is called in such a
    thread for each batch that it decoded.
    """

    def __init__(
        self, decode: Callable[[Job], Decoded], ring: Callable[[], None], limit: int
    ) -> None:
        self._decode = decode
        self._ring = ring
        self.limit = min(limit, MOST)
        self._threads = 0
        self._shared: queue.SimpleQueue[DecodedBatch] = queue.SimpleQueue()
        self._decoded: deque[DecodedBatch] = deque()

    @property
    def decoded(self) -> bool:
        """Whether a batch is decoded."""
        return bool(self._decoded)

    def share(self, batch: DecodedBatch) -> None:
        """Have one of them decode a batch, unless the model's thread comes first."""
        if self._threads < self.limit and (not self._threads or self._shared.qsize()):
            self._threads += 1
            threading.Thread(target=self._work, name="decode", daemon=True).start()
        self._shared.put(batch)

    def next(self) -> DecodedBatch | None:
        """Return a batch that is decoded, else one that none has begun; None without both."""
        if self._decoded:
            return self._decoded.popleft()
        try:
            return self._shared.get_nowait()
        except queue.Empty:
            return None

    def complete(self, batch: DecodedBatch) -> list[Decoded]:
        """Return what a batch decoded to; decode it if nobody has."""
        if batch.decoded is None:
            batch.decoded = [self._decode(job) for job in batch.jobs]
        return batch.decoded

    def _work(self) -> None:
        while True:
            batch = self._shared.get()
            self.complete(batch)
            self._decoded.append(batch)
            del batch  # a large picture would stay until the next one
            self._ring()
