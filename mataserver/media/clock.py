"""Record of which threads are decoding, and since when."""

from __future__ import annotations

import time
from threading import get_ident

_since: dict[int, float] = {}


def start() -> None:
    """Record that this thread starts decoding."""
    _since[get_ident()] = time.monotonic()


def stop() -> None:
    """Record that this thread has finished decoding."""
    _since.pop(get_ident(), None)


def decoding() -> dict[int, float]:
    """Return the threads that are decoding, with the ``time.monotonic()`` of their start."""
    return _since.copy()
