"""Whether the gateway's memory stays as it is: bodies of 60 KB and 3 MB for ten minutes.

Run as ``python bench/gateway_memory.py``; MINUTES is how long. The load is bounded, so that the
figures are those of memory and not of a machine that is busy. Of ten requests one has a head that
was never there before, and one a key that nobody has: what is remembered of heads and of who asks
must have an end, too. Prints the resident memory for each minute; the status is 1 where that of the
last minute is over what it was in the second one, by more than what an allocator keeps.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
import uuid
from typing import TYPE_CHECKING

from gateway_parts import FEW, KEY, PATH, length_of, running

if TYPE_CHECKING:
    import psutil

MINUTES = float(os.environ.get("MINUTES", "10"))
LOADS = ((60_000, 16, 0.1), (3_000_000, 8, 0.8))
"""Bytes of a body, connections, and seconds between two requests of one."""
SLACK = 16_000_000
"""Bytes that may stay where an allocator put them."""
EVERY = 2.0


def request(size: int, number: int) -> tuple[bytes, bytes]:
    """Return the head of a request, and the status that it is answered with."""
    key = "nobody's" if number % 10 == 9 else KEY
    lines = [f"POST {PATH} HTTP/1.1", "Host: bench", f"apikey: {key}"]
    lines += [f"Content-Length: {size}", "Content-Type: application/octet-stream"]
    lines += ["Inference-Header-Content-Length: 2"]
    if number % 10 == 5:
        lines.append(f"X-Request-Id: {uuid.uuid4()}")
    return "\r\n".join([*lines, "", ""]).encode(), b" 401 " if key != KEY else b" 200 "


class Client:
    """Asks on one connection after the other, as the server leaves them open."""

    def __init__(self, port: int, size: int, pause: float) -> None:
        self._port, self._size, self._pause = port, size, pause
        self._body = bytes(size)
        self.answered = 0

    async def run(self) -> None:
        """Ask until it is cancelled. Raises ``SystemExit`` for an answer that is none."""
        number = 0
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                while not reader.at_eof():
                    number += 1
                    await self._ask(reader, writer, number)
                    await asyncio.sleep(self._pause)
            except (ConnectionError, asyncio.IncompleteReadError):
                continue  # who has no key may be cut off in the midst of a body
            finally:
                writer.transport.abort()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        head, status = request(self._size, number)
        writer.writelines((head, self._body))
        await writer.drain()
        told = await reader.readuntil(b"\r\n\r\n")
        if status not in told[:16]:
            raise SystemExit(f"answered otherwise than with{status.decode()}: {told[:300]!r}")
        await reader.readexactly(length_of(told))
        self.answered += 1
        if b"connection: close" in told.lower():
            raise ConnectionError


async def measured(port: int, process: psutil.Process) -> list[list[int]]:
    """Return the resident memory, in bytes, at moments of each minute."""
    clients = [Client(port, size, pause) for size, many, pause in LOADS for _ in range(many)]
    asking = [asyncio.create_task(each.run()) for each in clients]
    minutes: list[list[int]] = []
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < 60 * MINUTES:
        await asyncio.sleep(EVERY)
        for each in asking:
            if each.done():
                each.result()
        if len(minutes) <= passed // 60:
            minutes.append([])
        minutes[-1].append(process.memory_info().rss)
    for each in asking:
        each.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    print(f"{sum(each.answered for each in clients)} requests were answered\n")
    return minutes


def main() -> int:
    """Run it; return the exit status."""
    with (
        running("upstream", "0") as behind,
        running("gateway", UPSTREAM=str(behind.port), **FEW) as way,
    ):
        assert way.process is not None
        minutes = asyncio.run(measured(way.port, way.process))
    print("| minute | resident, MB: median | most |\n|---|---|---|")
    for number, each in enumerate(minutes, 1):
        print(f"| {number} | {statistics.median(each) / 1e6:.0f} | {max(each) / 1e6:.0f} |")
    steady = minutes[1] if len(minutes) > 2 else minutes[0]
    grown = statistics.median(minutes[-1]) - statistics.median(steady)
    print(f"\nfrom the second minute to the last it grew by {grown / 1e6:.1f} MB")
    return int(grown > SLACK)


if __name__ == "__main__":
    sys.exit(main())
