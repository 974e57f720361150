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

    ``looked(threads)`` is called at every look, with the threads that decode, as long as none is
    late.
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
                    return  # the worker ends
            self._looked(set(found))
