"""The fleet in one run: two real Tritons, a model, an application, and one of them is killed.

Run by ``make demo-fleet``: an environment for the Tritons is made below ``build/`` on the first
run; the server and the commands are those that an operator uses. A thousand requests go through
the gateway while one Triton is killed and comes back; a table says what became of them. The exit
status is 1 where one failed, or the killed Triton was not given its model again.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from onnx_files import adding  # noqa: E402

import run  # noqa: E402 - beside this file

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "demo"
REQUESTS, CLIENTS = 1000, 8
KILLED, BACK = REQUESTS // 4, REQUESTS // 2
"""After how many answers one Triton is killed, and is started again."""
PAUSE = 0.05
"""Seconds between two requests of a client: the whole takes long enough to see a death in it."""
ASKED = {
    "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]}],
}
ANSWER = [2.0, 3.0, 4.0]


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)  # noqa: T201 - this is a command


@dataclass
class Operator:
    """Who gives commands to a server, and asks it."""

    url: str

    def command(self, *words: str) -> str:
        """Run a ``mataserver fleet`` command, shown as it is typed; return what it printed."""
        say(f"$ mataserver fleet {' '.join(words)}")
        told = [sys.executable, "-m", "mataserver", "fleet", *words]
        own = {"MATA_SERVER_API_KEY": KEY}
        made = subprocess.run(
            [*told, "--url", self.url], capture_output=True, text=True, env={**os.environ, **own},
            check=False,
        )  # fmt: skip
        if made.returncode:
            raise SystemExit(made.stdout + made.stderr)
        for line in made.stdout.splitlines():
            say(f"  {line}")
        return made.stdout

    async def told(self, http: aiohttp.ClientSession, path: str) -> dict[str, Any]:
        """Return what the server says of a thing."""
        headers = {"Authorization": f"Bearer {KEY}"}
        async with http.get(f"{self.url}/api/{path}", headers=headers) as answer:
            found: dict[str, Any] = await answer.json()
            return found


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Operator]:
    """Run ``mataserver serve`` on a free port."""
    config = folder / "mataserver.yaml"
    config.write_text(f"data_dir: {folder / 'data'}\nport: 0\noutbound_hosts: [127.0.0.1]\n")
    own = {"MATA_SERVER_API_KEY": KEY, "MATA_SERVER_LOG_LEVEL": "error"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mataserver", "serve", "--config", str(config)],
        env={**os.environ, **own}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := [word for word in line.split() if word.startswith("http://")]:
                yield Operator(found[0].rstrip("/"))
                return
        raise SystemExit("the server did not start")
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@dataclass
class Load:
    """A thousand requests of several clients, and what became of them."""

    url: str
    key: str
    left: int = REQUESTS
    answers: list[int] = field(default_factory=list)
    wrong: int = 0
    times: list[float] = field(default_factory=list)

    async def run(self) -> None:
        """Ask until all were asked."""
        async with aiohttp.ClientSession(headers={"apikey": self.key}) as http:
            await asyncio.gather(*(self._client(http) for _ in range(CLIENTS)))

    async def _client(self, http: aiohttp.ClientSession) -> None:
        while self.left > 0:
            self.left -= 1
            begun = time.perf_counter()
            status, data = await infer(http, self.url)
            self.times.append((time.perf_counter() - begun) * 1e3)
            self.answers.append(status)
            self.wrong += status == 200 and data != ANSWER
            await asyncio.sleep(PAUSE)

    async def answered(self, count: int) -> None:
        """Wait until so many were answered."""
        while len(self.answers) < count:
            await asyncio.sleep(0.01)


async def infer(http: aiohttp.ClientSession, url: str) -> tuple[int, object]:
    """Ask the model; return the status, and the numbers of a good answer."""
    try:
        async with http.post(url, json=ASKED) as answer:
            body = await answer.json(content_type=None)
            return answer.status, body["outputs"][0]["data"] if answer.status == 200 else None
    except aiohttp.ClientError:
        return 0, None


async def until(operator: Operator, path: str, state: str) -> float:
    """Wait until a thing is in a state; return the seconds that took."""
    begun = time.monotonic()
    async with asyncio.timeout(60), aiohttp.ClientSession() as http:
        while (await operator.told(http, path)).get("state") != state:
            await asyncio.sleep(0.05)
    return time.monotonic() - begun


async def ready(load: Load) -> None:
    """Wait until the gateway has seen that the model is ready."""
    async with asyncio.timeout(60), aiohttp.ClientSession(headers={"apikey": load.key}) as http:
        while (await infer(http, load.url))[0] != 200:
            await asyncio.sleep(0.05)


async def show(operator: Operator, tritons: list[Any], folder: Path) -> bool:
    """Do all of it; return whether it went well."""
    for number, each in enumerate(tritons, 1):
        ports = ["--grpc-port", str(each.grpc_port), "--metrics-port", str(each.metrics_port)]
        operator.command("tritons", "add", f"gpu-{number}", "127.0.0.1", str(each.port), *ports)
    model = folder / "repository" / "shelf"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.onnx").write_bytes(adding(1))
    operator.command("models", "push", str(model), "--load")
    operator.command("apps", "add", "shop", "--resend")
    operator.command("apps", "route", "shop", "shelf")
    key = operator.command("consumers", "add", "shop", "till").split()[-1]
    load = Load(f"{operator.url}/gateway/shop/v2/models/shelf/infer", key)
    await ready(load)
    say(f"{REQUESTS} requests of {CLIENTS} clients")
    asking = asyncio.create_task(load.run())
    await load.answered(KILLED)
    say("  kill -9 of gpu-1")
    tritons[0].kill()
    away = await until(operator, "tritons/gpu-1", "offline")
    await load.answered(BACK)
    say("  gpu-1 is started again, with nothing in it")
    await tritons[0].start()
    again = await until(operator, "models/shelf", "ready")
    await asking
    await counted(operator)
    operator.command("tritons", "list")
    operator.command("models", "list")
    say("  (what a Triton counted after the last look at it is lost with it)")
    return table(load, away, again)


async def counted(operator: Operator) -> None:
    """Wait until what was asked of the Tritons was looked up: each is looked at every second."""
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        before = -1
        while (
            now := int((await operator.told(http, "models/shelf"))["inference_count"])
        ) != before:
            before = now
            await asyncio.sleep(2.5)


def table(load: Load, away: float, again: float) -> bool:
    """Print what became of the requests; return whether all went well."""
    good = load.answers.count(200) - load.wrong
    times = sorted(load.times)
    rows = [
        ("requests", str(len(load.answers))),
        ("answered as they should be", str(good)),
        ("failed", str(len(load.answers) - good)),
        ("median, 99 % of the times, ms", f"{statistics.median(times):.1f}, {times[-10]:.1f}"),
        ("the dead Triton was seen after, s", f"{away:.1f}"),
        ("its model was there again after, s", f"{again:.1f}"),
    ]
    say("")
    for name, value in rows:
        say(f"| {name:<35} | {value:>14} |")
    return good == len(load.answers) == REQUESTS


def main() -> int:
    """Run the demonstration."""
    say("the environment of the Tritons: some 300 MB on the first run")
    os.environ["FLEET_TRITON_PYTHON"] = str(run.environment())
    real = importlib.import_module("real_triton")  # it asks for the environment as it is imported
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        tritons = []
        for _ in range(2):
            tritons.append(real.RealTriton())
            stack.callback(tritons[-1].close)
        operator = stack.enter_context(server(folder))

        async def whole() -> bool:
            for each in tritons:
                await each.start()
            return await show(operator, tritons, folder)

        return 0 if asyncio.run(whole()) else 1


if __name__ == "__main__":
    sys.exit(main())
