"""Retention of freed memory: kept for later bodies and answers, returned after a while.

For a 3 MB body, returning its memory to the kernel and requesting it again costs more than
receiving and sending it. Retaining everything would leave an idle server as large as at its peak.
"""

from __future__ import annotations

import asyncio

from mataserver.engines.memory import (
    keep_freed_memory,
    ram_total,
    release_freed_memory,
    resident_bytes,
)

MAX_BLOCK_MB = 8
"""Maximum size of retained blocks."""
MAX_RETAINED_MB = 256
"""Maximum free memory at the end of the heap, and..."""
MEMORY_PARTS = 16
"""...as a fraction of the machine's memory: one in this many."""
CHECK_INTERVAL = 20.0
"""Interval of checks in seconds."""
MAX_BACKOFF = 32
"""Maximum factor by which the interval grows while checks are futile: memory in use stays."""
MIN_RELEASED = 16 << 20
"""Bytes above the lowest level ever reached that are not worth returning."""


def retain_freed_memory() -> None:
    """Make the allocator retain freed memory."""
    keep_freed_memory(MAX_BLOCK_MB, min(MAX_RETAINED_MB, ram_total() // MEMORY_PARTS >> 20))


async def release_periodically(every: float = CHECK_INTERVAL) -> None:
    """Return retained memory periodically, forever; memory in use is requested again once.

    Runs in a thread, as it traverses the whole heap.
    """
    least, pause = resident_bytes(), every
    while True:
        await asyncio.sleep(pause)
        before = resident_bytes()
        if before > least + MIN_RELEASED:
            await asyncio.to_thread(release_freed_memory)
            left = resident_bytes()
            pause = (
                every if before - left > MIN_RELEASED // 4 else min(2 * pause, MAX_BACKOFF * every)
            )
            least = min(least, left)
