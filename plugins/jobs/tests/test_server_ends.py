"""The end of a server with a job that does not stop: by SIGTERM in time, by SIGKILL at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import aiohttp
import psutil
import pytest
from serving_jobs import SMALL, JobsClient, register

pytestmark = pytest.mark.long

DRAIN = 1.0
SERVER = """
import asyncio, json, sys
from pathlib import Path
from serving_jobs import points
from mataserver import config, plugins
from mataserver.app import running
settings = config.load(environ={}, directory=Path(sys.argv[1]), **json.loads(sys.argv[2]))
found = plugins.discover(settings, points(), {})
asyncio.run(running.run(settings, lambda url, state: print(url, flush=True), found))
"""


@contextlib.asynccontextmanager
async def serving(folder):
    """Run a server in a process of its own; yield it and who asks it."""
    register(folder)
    settings = {"port": 0, "api_keys": ["test-key"], "data_dir": str(folder), "engine": "thread"}
    settings |= {"drain_timeout": DRAIN, "plugins": {"jobs": {**SMALL, "slots": 2}}}
    path = os.pathsep.join([str(Path(__file__).parent), *(each for each in sys.path if each)])
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVER, str(folder), json.dumps(settings)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        url = (await server.stdout.readline()).decode().strip()
        headers = {"Authorization": "Bearer test-key"}
        async with aiohttp.ClientSession(url, headers=headers) as http:
            yield server, JobsClient(None, http)
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.kill()
        await server.wait()


async def busy(ask):
    """Have a job count and another hear no signal; return the counting one."""
    counting = await ask.count(5_000)
    status, deaf = await ask("POST", "/lab/misbehave", json={"how": "deaf"})
    assert status == 202
    for job in (counting, deaf["id"]):
        await ask.until(job, lambda shown: shown["progress"] > 0)
    return counting


def family(server):
    """Return the processes that descend from a server."""
    return psutil.Process(server.pid).children(recursive=True)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_a_server_that_ends(tmp_path, end):
    """No process is left soon after its drain time, or after kill -9: one hears no signal.

    The next server goes on with what was at work.
    """
    async with serving(tmp_path) as (server, ask):
        counting = await busy(ask)
        processes = family(server)
        assert len(processes) >= 2
        server.send_signal(end)
        await server.wait()
        _, alive = psutil.wait_procs(processes, 10 * DRAIN)
        assert not alive
    async with serving(tmp_path) as (_, ask):
        await ask.until(counting, lambda shown: shown["state"] == "running")
