"""Unloading gives memory back to the system: all of the worker's, and the server keeps nothing."""

from __future__ import annotations

import contextlib

import psutil
import pytest

from api_answers import until
from stream_peers import infer, server_apart

MB = 1_000_000
BALLAST = 200 * MB
SETTLED = 2
"""Rounds after which what is made once has been made: imports, the zygote, buffers."""

ROUNDS = 5
SLACK = 12 * MB
"""What the rounds after that may add, of the 1000 MB that they load."""


async def load_and_unload(http):
    """Load the model by a request, and unload it."""
    assert await infer(http) == 200
    async with http.post("/v1/models/unload", json={"model": "fake-detect"}) as response:
        assert (await response.json())["status"] == "unloaded"


def family(server):
    """Return the server's process and those that descend from it, without those that ended."""
    below = server.process.children(recursive=True)
    return [server.process, *(each for each in below if _lives(each))]


def _lives(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


async def memory(server, processes):
    """Return the proportional set size of the server and of all its processes, once there are n."""
    await until(lambda: len(family(server)) == processes)
    each = [process.memory_full_info().pss for process in family(server)]
    return each[0], sum(each)


@pytest.mark.parametrize(("engine", "idle", "loaded"), [("process", 2, 3), ("thread", 1, 1)])
async def test_unloading_gives_the_memory_back(tmp_path, engine, idle, loaded):
    """A model of 200 MB is held while it is loaded; unloaded again and again it leaves nothing.

    Of the processes only the zygote stays beside the server.
    """
    plugins = {"fake": {"ballast_mb": BALLAST // MB}}
    with server_apart(tmp_path, engine=engine, plugins=plugins) as server:
        async with server.http() as http:
            for _ in range(SETTLED):
                await load_and_unload(http)
            before = await memory(server, idle)
            assert await infer(http) == 200
            during = await memory(server, loaded)
            for _ in range(ROUNDS):
                await load_and_unload(http)
            after = await memory(server, idle)
    assert during[1] > before[1] + 0.95 * BALLAST
    for now, then in zip(after, before, strict=True):
        assert now < then + SLACK
