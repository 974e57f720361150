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

BLOCK_MB = 8
"""Maximum size of retained blocks."""
KEPT_MB = 256
"""Maximum free memory at the end of the heap, and..."""
PART = 16
"""...as a fraction of the machine's memory: one in this many."""
EVERY = 20.0
"""Interval of checks in seconds."""
RARELY = 32
"""Maximum factor by which the interval grows while checks are futile: memory in use stays."""
SPARE = 16 << 20
"""Bytes above the lowest level ever reached that are not worth returning."""


def keep() -> None:
    """Make the allocator retain freed memory."""
    keep_freed_memory(BLOCK_MB, min(KEPT_MB, ram_total() // PART >> 20))


async def give_back(every: float = EVERY) -> None:
    """Return retained memory periodically, forever; memory in use is requested again once.

    Runs in a thread, as it traverses the whole heap.
    """
    least, pause = resident_bytes(), every
    while True:
        await asyncio.sleep(pause)
        before = resident_bytes()
        if before > least + SPARE:
            await asyncio.to_thread(release_freed_memory)
            left = resident_bytes()
            pause = every if before - left > SPARE // 4 else min(2 * pause, RARELY * every)
            least = min(least, left)
