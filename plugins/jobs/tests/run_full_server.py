"""A server whose data directory is a small disk of its own, which is filled as it is told.

``python run_full_server.py FOLDER MEGABYTES``, in a mount namespace of its own: nobody else sees
the disk, and it goes with the process. It prints its address, then an answer to each line that it
reads: ``fill BYTES`` takes all the room but so much, ``await NAME`` takes all of it as soon as
there is a file of that name, ``free`` gives it back, ``files`` lists all, ``jobs`` counts the
processes of jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

from serving_jobs import asking, children_of_jobs

PAGE = 4096
MUCH = 1 << 20


def fill(place, leave):
    """Take all the room but some bytes."""
    with place.open("ab", buffering=0) as file:
        for size in (MUCH, PAGE):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
        file.truncate(max(0, file.tell() // PAGE * PAGE - leave))


def done(folder, order, amount=0):
    """Do what a line says; return the answer."""
    if order == "jobs":
        return len(children_of_jobs())
    if order == "await":
        while not any(folder.rglob(str(amount))):
            time.sleep(0.001)
        for each in children_of_jobs():
            each.suspend()  # a job would be done before it is full
        fill(folder / "filler", 0)
        for each in children_of_jobs():
            each.resume()
    elif order == "fill":
        fill(folder / "filler", int(amount))
    elif order == "free":
        (folder / "filler").unlink(missing_ok=True)
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def tell(text):
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def main(folder, megabytes):
    """Serve until killed."""
    options = f"size={megabytes}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    async with asking(folder, outbound_hosts=["127.0.0.1"]) as ask:
        tell(ask.served.url)
        while order := await asyncio.to_thread(sys.stdin.readline):
            tell(json.dumps(await asyncio.to_thread(done, folder, *order.split())))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
