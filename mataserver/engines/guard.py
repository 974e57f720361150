"""Looks after decoders: they cannot be interrupted, and a picture can keep one busy for minutes.

The time of decoding is watched apart from the model's. Whoever decodes for longer than it may ends
with its worker, its picture is named, and the others' go to the next worker.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from mataserver.engines.watchdog import pause
from mataserver.media import decoding

if TYPE_CHECKING:
    from collections.abc import Callable


class Guard:
    """A thread that tells ``late(thread)``, once, of a thread that decodes for over ``limit`` s.

    ``busy(threads)`` is called for the threads that decode, as long as none is late.
    """

    def __init__(
        self, limit: float, late: Callable[[int], None], busy: Callable[[set[int]], None]
    ) -> None:
        self._limit = limit
        self._late = late
        self._busy = busy
        threading.Thread(target=self._watch, name="guard", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(pause(self._limit))
            found = decoding()
            if not found:
                continue
            thread, since = min(found.items(), key=lambda item: item[1])
            if time.monotonic() - since > self._limit:
                self._late(thread)
                return  # the worker ends
            self._busy(set(found))
