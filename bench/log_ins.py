"""What a flood of log-ins costs the others: 1,000 a second, right and wrong, from eight addresses.

Run as ``python bench/log_ins.py [SECONDS]`` (default 10, the length of a block). Blocks take turns,
without a flood and with one; in each a client asks ``/health`` and a model that takes 20 ms of a
core. Every log-in must be answered 200, 401, or 429 with ``Retry-After``; the server's memory is to
stay within what two hashes take. Compare the blocks of one run, and not milliseconds of two.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp
import psutil

from mataserver.testing import FAKE, installed, serving

ROUNDS, RATE, ADDRESSES = 3, 1_000, 8
MODEL = "fake-detect"
PICTURE = Path(__file__).parents[1] / "examples" / "pictures" / "codes.jpg"
PASSWORD = "correct horse"
USERS = ("ada", "bob", "eve")


async def serve(folder: str) -> None:
    """Serve until killed; print the address and the key."""
    points = [FAKE, *installed("database", "accounts")]
    models = [{"model": MODEL, "task": "detect", "keep_alive": -1, "preload": True}]
    async with serving(Path(folder), entry_points=points, models=models) as served:
        print(served.url, served.key, flush=True)
        await asyncio.Event().wait()


class Flood:
    """Log-ins at a rate, whoever waits for their answers."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.answers: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """Log in for some time."""
        sessions = [
            aiohttp.ClientSession(
                self._url, connector=aiohttp.TCPConnector(local_addr=(f"127.0.0.{n}", 0), limit=64)
            )
            for n in range(2, 2 + ADDRESSES)
        ]
        begun, tasks = time.monotonic(), set()
        for number in range(int(seconds * RATE)):
            late = begun + number / RATE - time.monotonic()
            if late > 0:
                await asyncio.sleep(late)
            task = asyncio.create_task(self._one(sessions[number % ADDRESSES], number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        for session in sessions:
            await session.close()

    async def _one(self, http: aiohttp.ClientSession, number: int) -> None:
        right = number % 3 == 0
        body = {"username": USERS[number % len(USERS)], "password": PASSWORD if right else "wrong"}
        async with http.post("/auth/token", json=body) as answer:
            await answer.read()
            told = answer.status != 429 or "Retry-After" in answer.headers
            self.answers[str(answer.status) if told else "429 without a time"] += 1


class Asking:
    """Asks ``/health`` and the model in turn; keeps what each answer took, in seconds."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._picture = PICTURE.read_bytes()
        self.health: list[float] = []
        self.infer: list[float] = []

    async def run(self, seconds: float) -> None:
        """Ask for some time."""
        until = time.monotonic() + seconds
        query = {"model": MODEL, "seconds": "0.02"}
        while time.monotonic() < until:
            self.health.append(await self._timed("GET", "/health"))
            self.infer.append(
                await self._timed("POST", "/v1/infer", params=query, data=self._picture)
            )
            await asyncio.sleep(0.02)

    async def _timed(self, method: str, path: str, **more: object) -> float:
        begun, headers = time.perf_counter(), {"Content-Type": "image/jpeg"}
        async with self._http.request(method, path, headers=headers, **more) as answer:  # type: ignore[arg-type]
            await answer.read()
            if answer.status != 200:
                raise SystemExit(f"{path} answered {answer.status}")
        return time.perf_counter() - begun


def row(name: str, values: list[float]) -> str:
    """Return a line of the table: milliseconds."""
    parts = statistics.quantiles(values, n=100)
    return f"| {name} | {parts[49] * 1e3:.1f} | {parts[94] * 1e3:.1f} | {parts[98] * 1e3:.1f} |"


async def flooded(url: str, seconds: float) -> dict[str, int]:
    """Run a flood in a process of its own, which delays no measuring; return its answers."""
    command = (sys.executable, __file__, "--flood", url, str(seconds))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    answers: dict[str, int] = json.loads(told)
    return answers


async def flood(url: str, seconds: float) -> None:
    """Flood a server and print what was answered."""
    flooding = Flood(url)
    await flooding.run(seconds)
    print(json.dumps(flooding.answers))


async def measured(seconds: float, url: str, key: str, server: psutil.Process) -> None:
    """Run the blocks in turn and print what came of them."""
    answers: Counter[str] = Counter()
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(url, headers=headers) as http:
        for name in USERS:
            new = {"name": name, "password": PASSWORD, "role": "viewer"}
            async with http.post("/v1/users", json=new) as answer:
                await answer.read()
        alone, beside = Asking(http), Asking(http)
        await Asking(http).run(2.0)
        before = server.memory_info().rss / 1e6
        for _ in range(ROUNDS):
            await alone.run(seconds)
            _, more = await asyncio.gather(beside.run(seconds), flooded(url, seconds))
            answers.update(more)
        after = server.memory_info().rss / 1e6
    print("| | median, ms | p95, ms | p99, ms |\n|---|---|---|---|")
    for name, asking in (("alone", alone), ("beside the flood", beside)):
        print(row(f"`/health`, {name}", asking.health))
        print(row(f"a model, {name}", asking.infer))
    print(f"\n{dict(answers)} of {answers.total()} log-ins in {ROUNDS * seconds:g} s")
    print(f"server: {before:.1f} to {after:.1f} MB; load average {os.getloadavg()[0]:.1f}")
    if not set(answers) <= {"200", "401", "429"}:
        sys.exit("a log-in was answered otherwise")


async def main() -> None:
    """Start a server beside, measure, and end it."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    with tempfile.TemporaryDirectory() as folder:
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, __file__, "--serve", folder), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert server.stdout is not None
            url, key = (await server.stdout.readline()).decode().split()
            await measured(seconds, url, key, psutil.Process(server.pid))
        finally:
            server.kill()
            await server.wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--serve", given]:
            asyncio.run(serve(given))
        case ["--flood", given, length]:
            asyncio.run(flood(given, float(length)))
        case _:
            asyncio.run(main())
