"""Which threads decode, and since when."""

from __future__ import annotations

import time
from threading import get_ident

_since: dict[int, float] = {}


def start() -> None:
    """Note that this thread begins to decode."""
    _since[get_ident()] = time.monotonic()


def stop() -> None:
    """Note that it is done."""
    _since.pop(get_ident(), None)


def decoding() -> dict[int, float]:
    """Return the threads that decode just now, each with its ``time.monotonic()`` at the start."""
    return _since.copy()
