"""Unloading gives memory back to the system: all of the worker's, and the server keeps nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import subprocess
import sys
import threading
import time
import weakref

import psutil
import pytest

from api_answers import until
from conftest import picture
from mataserver import ClassifyResult, LoadContext, ModelSpec, Params
from mataserver.engines.process import ProcessEngine
from mataserver.engines.work import Assignment, Job, Placement
from mataserver.serving.batching import Batcher
from stream_peers import infer, server_apart

pytestmark = pytest.mark.long

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


class Remembering:
    """A model that notes, a while after each batch, how many pictures are still in memory."""

    def __init__(self, notes):
        self._notes = notes
        self._seen = []

    def predict(self, images, _params):
        """Note the pictures and take some time."""
        self._seen += map(weakref.ref, images)
        threading.Timer(0.3, self._note).start()
        time.sleep(0.02)
        return [ClassifyResult([]) for _ in images]

    def _note(self):
        self._notes.write_text(str(sum(each() is not None for each in self._seen)))


def load(_spec, context):
    """Load the model."""
    return Remembering(context.data_dir / "notes")


async def test_an_idle_worker_keeps_no_pictures(tmp_path):
    """When a crowd has been served the worker holds none of its pictures until the next comes."""
    context = LoadContext(None, "cpu", "auto", 0, tmp_path, logging.getLogger("test"))
    spec = ModelSpec("remembering", "classify", "pip")
    engine = ProcessEngine()
    worker = await engine.start(
        Assignment(load, Params, spec, context, 2), Placement("remembering")
    )
    try:
        batcher = Batcher(worker, max_batch=4, max_wait=0.0, queue_limit=20)
        await asyncio.gather(*(batcher.submit(Job(picture(), b"\x80")) for _ in range(10)))
        notes = tmp_path / "notes"
        await until(lambda: notes.exists() and notes.read_text() == "0", 30.0)
    finally:
        await worker.close()
        await engine.close()


THRIFTY = """
import asyncio
from mataserver.app import memory_release
from mataserver.engines.memory import resident_bytes

async def main():
    memory_release.retain_freed_memory()
    looking = asyncio.create_task(memory_release.release_periodically(every=0.2))
    await asyncio.sleep(0)
    before = resident_bytes()
    bodies = [b"x" * (1_000_000 + n) for n in range(60)]
    del bodies
    kept = resident_bytes() - before
    while resident_bytes() - before > 20_000_000:
        await asyncio.sleep(0.01)
    print(kept)
    looking.cancel()

memory_release.MIN_RELEASED = 1_000_000
asyncio.run(main())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library keeps nothing")
def test_freed_bodies_are_kept_and_given_back():
    """The next body needs no memory of the kernel, and an idle server becomes small again."""
    asked = subprocess.run(
        [sys.executable, "-c", THRIFTY], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(asked.stdout) > 50_000_000
