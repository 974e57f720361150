"""A server with reconstruction in a process of its own: prints its address, serves until killed."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from serving_reconstruct import asking


async def main(folder, chosen):
    """Serve."""
    async with asking(folder, **chosen) as ask:
        sys.stdout.write(ask.served.url + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
