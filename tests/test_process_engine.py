"""The process engine: crashes, hangs, cancellation, unloading, and the death of the server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import psutil
import pytest

from api_answers import until
from conftest import picture, register
from mataserver import testing
from mataserver.engines import zygote_handle
from mataserver.engines.zygote import PREFIX
from own_processes import descendants, workers, zygotes

PNG = picture()


async def ask(session, model="fake-detect", **params):
    """POST the picture raw; return status and decoded body."""
    query = {"model": model, **{k: str(v) for k, v in params.items()}}
    headers = {"Content-Type": "image/png"}
    async with session.post("/v1/infer", params=query, data=PNG, headers=headers) as response:
        return response.status, await response.json()


@pytest.fixture
async def processes(data_dir):
    """A server whose fake models run in child processes."""
    async with (
        testing.serving(data_dir, engine="process", infer_timeout=2.0) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as session,
    ):
        yield session


async def test_infers_in_a_child_process(processes):
    """A request is answered by a child of a zygote, with the right box."""
    status, body = await ask(processes)
    assert status == 200
    assert body["detections"][0]["bbox"] == [10.0, 8.0, 30.0, 28.0]
    assert len(descendants()) == 2


async def test_a_worker_holds_the_temporary_directory_of_no_other(processes):
    """Each has its own open, and none that the zygote held for another when it was forked."""
    assert (await ask(processes))[0] == (await ask(processes, "fake-ocr"))[0] == 200
    held = [
        {
            link
            for fd in Path(f"/proc/{each.pid}/fd").iterdir()
            if PREFIX in (link := str(fd.readlink()))
        }
        for each in workers()
    ]
    assert [len(each) for each in held] == [1, 1]
    assert held[0] != held[1]


@pytest.mark.parametrize("behave", ["exit", "segfault"])
async def test_a_crash_is_answered_and_the_next_request_served(processes, behave):
    """A model that kills its process costs its own request a 500; the next one is served."""
    status, body = await ask(processes, behave=behave)
    assert status == 500
    assert "worker died" in body["detail"]
    assert (await ask(processes))[0] == 200


async def test_a_hang_is_killed_at_its_deadline(processes):
    """A model that hangs is killed when its deadline passes; the next request is served."""
    status, body = await ask(processes, behave="hang")
    assert status == 500
    assert "no answer within" in body["detail"]
    assert (await ask(processes))[0] == 200


async def test_a_crash_does_not_touch_the_neighbours(processes):
    """A request on another model that is under way goes on when its neighbour crashes."""
    neighbour = asyncio.create_task(ask(processes, "fake-ocr", seconds=0.5))
    await ask(processes)
    assert (await ask(processes, behave="exit"))[0] == 500
    status, body = await neighbour
    assert (status, body["text"]) == (200, "64x48")


async def test_repeated_deaths_back_off(processes):
    """The third death in a row makes the next request wait: 503 with Retry-After, and an error."""
    for _ in range(3):
        assert (await ask(processes, behave="exit"))[0] == 500
    status, body = await ask(processes)
    assert status == 503
    async with processes.get("/v1/models/fake-detect") as response:
        assert "died" in (await response.json())["error"]
    assert "dying" in body["detail"]


async def test_unloading_ends_the_child(processes):
    """After an unload the worker process is gone."""
    await ask(processes)
    before = descendants()
    async with processes.post("/v1/models/unload", json={"model": "fake-detect"}) as response:
        assert (await response.json())["status"] == "unloaded"
    _, alive = psutil.wait_procs(before, timeout=3)
    assert len(alive) == 1  # the zygote lingers, the worker is gone


async def test_the_server_leaves_no_process_behind(data_dir):
    """When the server has stopped, no zygote and no worker is left."""
    async with (
        testing.serving(data_dir, engine="process") as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as session,
    ):
        await ask(session)
        left = descendants()
    assert left
    _, alive = psutil.wait_procs(left, timeout=3)
    assert not alive


SERVER = """
import asyncio, sys
from pathlib import Path
from mataserver import testing
async def main():
    async with testing.serving(Path(sys.argv[1]), engine="process") as served:
        print(served.url, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("busy", [False, True])
async def test_kill_minus_nine_of_the_server_leaves_nothing(tmp_path, busy):
    """When the server is killed, even during an inference, its zygotes and workers die with it."""
    register(tmp_path, {"fake-detect": "detect"})
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip()
        async with aiohttp.ClientSession(url, headers={"Authorization": "Bearer test-key"}) as http:
            assert (await ask(http))[0] == 200
            family = psutil.Process(server.pid).children(recursive=True)
            assert len(family) == 2
            request = asyncio.create_task(ask(http, behave="hang" if busy else "ok"))
            await asyncio.sleep(0.3)
            os.kill(server.pid, signal.SIGKILL)
            await asyncio.gather(request, return_exceptions=True)
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


async def test_a_killed_zygote_is_replaced(processes):
    """Killing the zygote takes its workers along; the next request starts anew."""
    await ask(processes)
    for process in descendants():
        process.kill()
    deadline = time.monotonic() + 10
    while (answer := await ask(processes))[0] != 200:
        assert time.monotonic() < deadline, answer
        await asyncio.sleep(0.1)


async def test_a_zygote_of_another_edition_is_refused(processes, monkeypatch):
    """An upgrade under a running server: a worker of the new code would speak another wire."""
    assert (await ask(processes))[0] == 200
    monkeypatch.setattr(zygote_handle, "EDITION", "the server's, which was replaced on disk")
    for process in descendants():
        process.kill()

    async def refused():
        return "changed on disk while it runs; restart the server" in str(await ask(processes))

    async def served():
        return (await ask(processes))[0] == 200

    await until(refused)
    monkeypatch.undo()
    await until(served)


async def test_a_fork_that_fails_is_answered_and_costs_nobody_else(processes):
    """A zygote that can fork no more says so: 503 for who asked; its workers and it live on."""
    await ask(processes)
    before = descendants()
    (zygote,) = zygotes()
    _, most = zygote.rlimit(psutil.RLIMIT_NOFILE)
    zygote.rlimit(psutil.RLIMIT_NOFILE, (1, most))  # it cannot take the new worker's socket
    assert await ask(processes, "fake-ocr") == (
        503,
        {"detail": "No worker process can be started now"},
    )
    assert (await ask(processes))[0] == 200
    assert descendants() == before
    zygote.rlimit(psutil.RLIMIT_NOFILE, (most, most))
    assert (await ask(processes, "fake-ocr"))[0] == 200


async def test_a_cancelled_request_leaves_the_queue(processes):
    """Requests whose clients went away are not run: the last client waits for one inference."""
    await ask(processes)
    slow = [asyncio.create_task(ask(processes, seconds=0.5)) for _ in range(12)]
    await asyncio.sleep(0.2)
    for task in slow[1:]:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    async with processes.get("/metrics") as response:
        text = await response.text()
    line = next(x for x in text.splitlines() if x.startswith("mataserver_inferences_total"))
    assert float(line.split()[-1]) <= 3


def test_the_core_imports_no_framework():
    """Each core module, imported alone, brings in no model framework."""
    package = Path(testing.__file__).parents[1]
    modules = sorted(
        ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for path in package.rglob("*.py")
        if path.name not in {"__main__.py", "__init__.py"}
    )
    assert len(modules) > 30
    assert testing.imported_frameworks(", ".join(modules)) == []
