"""An operator's day as docs/fleet.md tells it, by its commands, over real Tritons."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).resolve().parent)]

from onnx_files import adding  # noqa: E402
from real_cases import Load, infer, until  # noqa: E402
from real_triton import RealTriton  # noqa: E402

from mataserver.testing import FAKE, installed, serving  # noqa: E402
from mataserver_fleet.commands import fleet  # noqa: E402

CONFIG = """
backend: "onnxruntime"
input { name: "x" data_type: TYPE_FP32 dims: [ -1, 3 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ -1, 3 ] }
"""


class Day:
    """The operator's shell, and the Tritons by their names."""

    def __init__(self, served, tritons, folder):
        self._where = ["--url", served.url, "--api-key", served.key]
        self.url, self.tritons, self.folder = served.url, tritons, folder

    async def run(self, line, status=0):
        """Run a command; return what it says."""
        words = [*line.split(), *self._where]
        done = await asyncio.to_thread(CliRunner().invoke, fleet, words)
        said = done.stdout + ("" if done.exception is None else str(done.exception))
        assert done.exit_code == status, said
        return said

    async def add(self, name):
        """Start a Triton and register it."""
        triton = self.tritons[name]
        await triton.start()
        ports = f"--grpc-port {triton.grpc_port} --metrics-port {triton.metrics_port}"
        await self.run(f"tritons add {name} 127.0.0.1 {triton.port} {ports}")

    def release(self, number, model):
        """Put a version into the folder that is pushed."""
        (self.folder / str(number)).mkdir(parents=True)
        (self.folder / str(number) / "model.onnx").write_bytes(model)

    async def served(self, name, first):
        """Wait until a Triton answers with what a version makes of the request."""
        url = f"{self.tritons[name].url}/v2/models/shelf/infer"
        async with aiohttp.ClientSession() as http:

            async def so():
                status, made = await infer(http, url)
                return status == 200 and made[0] == first

            await until(so, 60.0)

    async def listed(self, name, state):
        """Wait until the list of Tritons has one in a state."""

        async def so():
            lines = [each.split("\t") for each in (await self.run("tritons list")).splitlines()]
            return {each[0]: each[2] for each in lines}.get(name) == state

        await until(so, 60.0)


@pytest.fixture
async def day(tmp_path):
    """A server, no Triton yet, and the folder of a model in its first version."""
    settings = {"engine": "thread", "outbound_hosts": ["127.0.0.1"]}
    settings["plugins"] = {"fleet": {"probe": 0.5, "load_timeout": 60.0}}
    points = [FAKE, *installed("database", "accounts", "fleet")]
    tritons = {name: RealTriton() for name in ("gpu-1", "gpu-2", "gpu-3")}
    with contextlib.ExitStack() as stack:
        for each in tritons.values():
            stack.callback(each.close)
        async with serving(tmp_path, entry_points=points, **settings) as served:
            made = Day(served, tritons, tmp_path / "repository" / "shelf")
            made.release(1, adding(1))
            (made.folder / "config.pbtxt").write_text(CONFIG)
            yield made


async def test_an_operators_day_with_tritons(day):
    """One Triton becomes three, a bad release is taken back, a host dies: no request fails."""
    await day.add("gpu-1")
    push = f"models push {day.folder} --load"
    assert (await day.run(push)).endswith("shelf is loaded at gpu-1\n")
    await day.run("apps add shop --resend")
    await day.run("apps route shop shelf")
    key = (await day.run("consumers add shop till")).split()[-1]
    url = f"{day.url}/gateway/shop/v2/models/shelf/infer"
    async with aiohttp.ClientSession(headers={"apikey": key}) as http:
        await until(lambda: good(http, url))
        load = Load(http, url, clients=2)
        for name in ("gpu-2", "gpu-3"):
            await day.add(name)
            await day.served(name, 2.0)
        day.release(2, b"no model at all")
        assert "shelf is not loaded at gpu-1" in await day.run(push, status=1)
        for name in day.tritons:
            await day.served(name, 2.0)
        day.release(3, adding(500))
        said = await day.run(push)
        assert all(f"shelf is loaded at {name}\n" in said for name in day.tritons)
        await day.run("load shelf --version 1")
        for name in day.tritons:
            await day.served(name, 2.0)
        day.tritons["gpu-2"].kill()
        await day.listed("gpu-2", "offline")
        await day.tritons["gpu-2"].start()
        await day.served("gpu-2", 2.0)
        day.tritons["gpu-3"].kill()
        await day.listed("gpu-3", "offline")
        await day.run("tritons rm gpu-3 --force")
        assert "gpu-3" not in await day.run("tritons list")
        assert set(await load.stop()) == {200}


async def good(http, url):
    """Whether the gateway answers for the model."""
    return (await infer(http, url))[0] == 200
