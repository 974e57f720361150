"""A server with jobs in a process of its own, for a test to kill: prints its address."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from serving_jobs import asking


async def main(folder, slots):
    """Serve until killed."""
    async with asking(folder, jobs={"slots": slots}) as ask:
        sys.stdout.write(ask.served.url + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
