"""Ten times more requests than fit, and clients that hang up.

Run as ``python bench/overload.py [SECONDS]`` (default 60). A model that takes 20 ms is asked by ten
times more requests a second than it can answer: memory must stay flat, the answers that are given
as many as without the overload, and every answer 200 or 503; meanwhile ``/health`` is asked five
times a second, and the log may grow by a line a second. Then forty clients ask a model that takes
half a second, and 36 hang up at once: the four are to wait one abandoned inference, not 36.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp
import uvloop

import contestants
from question import Bodies, small

TIMES, WARM_UP = 10, 5.0
WORK = {"model": "faulty", "seconds": "0.02"}
SLOW = {"model": "faulty", "seconds": "0.5"}
HEADERS = {"Content-Type": "image/jpeg"}
FLAT, GOODPUT, HEALTH, LINES = 5.0, 0.95, 0.1, 1.0
CLIENTS, LEAVING = 40, 36


class Client:
    """Asks and counts."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._image = small()
        self.answers: Counter[int] = Counter()

    async def ask(self, query: dict[str, str]) -> int:
        """Ask once; return the status."""
        async with self._http.post(
            "/v1/infer", params=query, data=self._image, headers=HEADERS
        ) as answer:
            await answer.read()
            self.answers[answer.status] += 1
            return answer.status

    async def capacity(self, seconds: float) -> float:
        """Return the answers a second that a few clients get who wait for their answers."""
        begun, self.answers = time.monotonic(), Counter()

        async def client() -> None:
            while time.monotonic() < begun + seconds:
                await self.ask(WORK)

        await asyncio.gather(*(client() for _ in range(8)))
        return self.answers[200] / (time.monotonic() - begun)

    async def flood(self, rate: float, seconds: float) -> None:
        """Ask ``rate`` times a second whatever is answered."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
                group.create_task(self.ask(WORK))

    async def survivors(self) -> float:
        """Return the seconds that the last of those waits who stay when the others hang up."""
        asking = [asyncio.create_task(self.ask(SLOW)) for _ in range(CLIENTS)]
        await asyncio.sleep(0.1)
        for each in asking[:LEAVING]:
            each.cancel()
        begun = time.monotonic()
        statuses = await asyncio.gather(*asking[LEAVING:])
        if set(statuses) != {200}:
            raise SystemExit(f"who stayed was answered {statuses}")
        return time.monotonic() - begun + 0.1

    async def health(self, times: list[float]) -> None:
        """Ask for the server's health again and again; note the seconds that it takes."""
        while True:
            begun = time.monotonic()
            async with self._http.get("/health") as answer:
                await answer.read()
            times.append(time.monotonic() - begun)
            await asyncio.sleep(0.2)


async def watch(server: contestants.Server, samples: list[float]) -> None:
    """Note the memory of all processes every second."""
    while True:
        samples.append(await asyncio.to_thread(server.tree.sample_memory))
        await asyncio.sleep(1.0)


def lines_of(log: Path) -> int:
    """Return how many lines a log has."""
    return log.read_bytes().count(b"\n")


async def overload(client: Client, server: contestants.Server, log: Path, seconds: float) -> bool:
    """Flood the server and print what came of it; return whether it passed."""
    await client.capacity(2.0)
    before = await client.capacity(min(10.0, seconds))
    await client.flood(TIMES * before, WARM_UP)
    client.answers.clear()
    memory: list[float] = []
    health: list[float] = []
    watchers = [
        asyncio.create_task(watch(server, memory)),
        asyncio.create_task(client.health(health)),
    ]
    told, begun = await asyncio.to_thread(lines_of, log), time.monotonic()
    await client.flood(TIMES * before, seconds)
    lasted = time.monotonic() - begun
    for each in watchers:
        each.cancel()
    lines = (await asyncio.to_thread(lines_of, log) - told) / lasted
    goodput = client.answers[200] / lasted
    third = len(memory) // 3 or 1
    grown = statistics.median(memory[-third:]) - statistics.median(memory[:third])
    offered = client.answers.total() / lasted
    print(f"capacity {before:.1f}/s, offered {offered:.0f}/s for {lasted:.0f} s")
    print(f"goodput {goodput:.1f}/s = {goodput / before:.2f} of capacity; {dict(client.answers)}")
    print(f"memory {memory[0]:.1f} to {memory[-1]:.1f} MB, {grown:+.1f} MB between thirds")
    slowest = sorted(health)[int(len(health) * 0.99)]
    print(f"health p50 {statistics.median(health) * 1e3:.0f} ms, p99 {slowest * 1e3:.0f} ms")
    print(f"log {lines:.2f} lines a second")
    only = set(client.answers) <= {200, 503}
    quiet = slowest <= HEALTH and lines <= LINES
    return only and quiet and grown < FLAT and goodput >= GOODPUT * before


async def main() -> int:
    """Run both; return 0 if they passed."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with tempfile.TemporaryDirectory() as folder:
        server = contestants.ours(Bodies(Path(folder)))
        try:
            with server.tree.awake():
                connector = aiohttp.TCPConnector(limit=0)
                async with aiohttp.ClientSession(server.base, connector=connector) as http:
                    client = Client(http)
                    log = Path(folder, "server.log")
                    passed = await overload(client, server, log, seconds)
                    waits = [await client.survivors() for _ in range(5)]
        finally:
            server.close()
    waited = statistics.median(waits)
    print(f"{CLIENTS} ask for 0.5 s each, {LEAVING} hang up: the last waited {waited:.2f} s")
    stayed = (CLIENTS - LEAVING + 1) * float(SLOW["seconds"])  # and one that was abandoned
    good = passed and waited < stayed + 0.3
    print("PASSED" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
