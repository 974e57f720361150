"""Enforces the decode timeout: decoders cannot be interrupted, and a picture can block one long.

Decoding has a clock separate from the model's. A worker that exceeds it is killed, its picture is
reported, and its other requests move to the next worker.
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
    """A thread that calls ``late(thread)``, once, for a thread that decodes for over ``limit`` s.

    Until then ``looked(threads)`` is called at every check, with the threads that are decoding.
    """

    def __init__(
        self, limit: float, late: Callable[[int], None], looked: Callable[[set[int]], None]
    ) -> None:
        self._limit = limit
        self._late = late
        self._looked = looked
        threading.Thread(target=self._watch, name="guard", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(pause(self._limit))
            found = decoding()
            late = time.monotonic() - self._limit
            for thread, since in found.items():
                if since < late:
                    self._late(thread)
                    return  # the server kills this worker
            self._looked(set(found))
