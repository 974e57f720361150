"""Ten times more requests than fit, and clients that hang up.

Run as ``python bench/overload.py [SECONDS]`` (default 60). A model that takes 20 ms is asked by ten
times more requests a second than it can answer: memory must stay flat, the answers that are given
as many as without the overload, and every answer 200 or 503. Then ten clients ask a model that
takes half a second, and nine hang up at once: the tenth is to wait one inference, not ten.
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
FLAT, GOODPUT = 5.0, 0.9


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

    async def survivor(self) -> float:
        """Return the seconds that the last of ten clients waits when the others hang up."""
        asking = [asyncio.create_task(self.ask(SLOW)) for _ in range(10)]
        await asyncio.sleep(0.1)
        for each in asking[:9]:
            each.cancel()
        begun = time.monotonic()
        status = await asking[9]
        if status != 200:
            raise SystemExit(f"the tenth was answered {status}")
        return time.monotonic() - begun + 0.1


async def watch(server: contestants.Server, samples: list[float]) -> None:
    """Note the memory of all processes every second."""
    while True:
        samples.append(await asyncio.to_thread(server.tree.sample_memory))
        await asyncio.sleep(1.0)


async def overload(client: Client, server: contestants.Server, seconds: float) -> bool:
    """Flood the server and print what came of it; return whether it passed."""
    await client.capacity(2.0)
    before = await client.capacity(min(10.0, seconds))
    await client.flood(TIMES * before, WARM_UP)
    client.answers.clear()
    memory: list[float] = []
    watcher = asyncio.create_task(watch(server, memory))
    begun = time.monotonic()
    await client.flood(TIMES * before, seconds)
    lasted = time.monotonic() - begun
    watcher.cancel()
    goodput = client.answers[200] / lasted
    third = len(memory) // 3 or 1
    grown = statistics.median(memory[-third:]) - statistics.median(memory[:third])
    offered = client.answers.total() / lasted
    print(f"capacity {before:.1f}/s, offered {offered:.0f}/s for {lasted:.0f} s")
    print(f"goodput {goodput:.1f}/s = {goodput / before:.2f} of capacity; {dict(client.answers)}")
    print(f"memory {memory[0]:.1f} to {memory[-1]:.1f} MB, {grown:+.1f} MB between thirds")
    only = set(client.answers) <= {200, 503}
    return only and grown < FLAT and goodput >= GOODPUT * before


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
                    passed = await overload(client, server, seconds)
                    waits = [await client.survivor() for _ in range(5)]
        finally:
            server.close()
    waited = statistics.median(waits)
    print(f"ten ask for 0.5 s each, nine hang up: the tenth waited {waited:.2f} s")
    print("PASSED" if passed and waited < 1.3 else "FAILED")
    return 0 if passed and waited < 1.3 else 1


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
