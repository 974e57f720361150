"""Enforces the decode timeout: decoders cannot be interrupted, and a picture can block one long.

Decoding has a clock separate from the model's. A worker that exceeds it is killed, its picture is
reported, and its other requests move to the next worker.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from mataserver.engines.watchdog import check_interval
from mataserver.media import decoding

if TYPE_CHECKING:
    from collections.abc import Callable


class DecodeWatchdog:
    """Calls ``on_timeout(thread)``, once, for a thread that decodes for over ``limit`` seconds.

    Until then it calls ``on_check(threads)`` at every check, with the threads that are decoding.
    Runs in its own thread.
    """

    def __init__(
        self, limit: float, on_timeout: Callable[[int], None], on_check: Callable[[set[int]], None]
    ) -> None:
        self._limit = limit
        self._on_timeout = on_timeout
        self._on_check = on_check
        threading.Thread(target=self._watch, name="decode watchdog", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(check_interval(self._limit))
            found = decoding()
            latest_start = time.monotonic() - self._limit
            for thread, since in found.items():
                if since < latest_start:
                    self._on_timeout(thread)
                    return  # the server kills this worker
            self._on_check(set(found))
