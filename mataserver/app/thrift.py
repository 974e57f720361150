"""What bodies and answers took of memory: kept for the next ones, and given back after a while.

To give a block back to the kernel with each request, and to be given it anew, costs a body of 3 MB
more than to receive and to send it. To keep everything for good would leave an idle server as large
as it was at its busiest.
"""

from __future__ import annotations

import asyncio

from mataserver.engines.memory import (
    give_freed_memory_back,
    keep_freed_memory,
    ram_total,
    resident_bytes,
)

BLOCK_MB = 8
"""Blocks up to this are kept."""
KEPT_MB = 256
"""What is kept at the end of the heap until it is given back, and no more than..."""
PART = 16
"""...this part of the machine's memory: one in so many."""
EVERY = 20.0
"""Seconds between two looks."""
RARELY = 32
"""How many times as long it waits at most where looking was in vain: what is in use stays."""
SPARE = 16 << 20
"""Bytes over the least that was ever left which are not worth it."""


def keep() -> None:
    """Have freed memory kept."""
    keep_freed_memory(BLOCK_MB, min(KEPT_MB, ram_total() // PART >> 20))


async def give_back(every: float = EVERY) -> None:
    """Give it back every while, for ever: what is in use then is asked for anew once.

    Beside the event loop, since the whole heap is looked at.
    """
    least, pause = resident_bytes(), every
    while True:
        await asyncio.sleep(pause)
        before = resident_bytes()
        if before > least + SPARE:
            await asyncio.to_thread(give_freed_memory_back)
            left = resident_bytes()
            pause = every if before - left > SPARE // 4 else min(2 * pause, RARELY * every)
            least = min(least, left)
