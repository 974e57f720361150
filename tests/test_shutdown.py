"""SIGTERM while something hangs: every answer that can be given is, and the end comes in time."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import zipfile

import aiohttp
import pytest

from api_answers import until
from conftest import picture, register
from stream_peers import metric
from test_confinement import descendants, gone

PNG = picture()
DRAIN = 1.0
STOPPING = {"detail": "The server is shutting down"}

SERVER = """
import asyncio, importlib.metadata, json, sys
from pathlib import Path
from confined_models import CONFINED
from mataserver import config, logs, plugins, testing
from mataserver.app import running
folder = Path(sys.argv[1])
points = [CONFINED]
if len(sys.argv) > 3:
    points.append(importlib.metadata.EntryPoint("stubborn", sys.argv[3], plugins.GROUP))
settings = config.load(environ={}, directory=folder, **json.loads(sys.argv[2]))
points += testing.installed(*settings.plugins)
found = plugins.discover(settings, points, {})
logs.configure("info", "text")
asyncio.run(running.run(settings, lambda url, state: print(url, flush=True), found))
"""


class Server:
    """A server in a process of its own."""

    def __init__(self, url, process):
        self.url, self.process = url, process

    async def end(self):
        """Send SIGTERM, and wait for the process: what hangs would be waited for for ever."""
        self.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self.process.wait, 60)


@contextlib.asynccontextmanager
async def serving(folder, service="", environment=None, registered=("confined",), **settings):
    """Run a server; yield it and an HTTP session with its key."""
    register(folder, dict.fromkeys(registered, "vlm"))
    chosen = {"port": 0, "api_keys": ["test-key"], "data_dir": str(folder), "drain_timeout": DRAIN}
    arguments = [str(folder), json.dumps(chosen | settings), *([service] if service else [])]
    path = os.pathsep.join(each for each in sys.path if each)
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-c", SERVER, *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        ) as process,
    ):
        try:
            url = process.stdout.readline().strip()
            assert url, (folder / "log").read_text()
            headers = {"Authorization": "Bearer test-key"}
            async with aiohttp.ClientSession(url, headers=headers) as http:
                yield Server(url, process), http
        finally:
            process.kill()


async def ask(http, prompt, model="confined"):
    """Have a model do something; return status and body."""
    query, headers = {"model": model, "prompt": prompt}, {"Content-Type": "image/png"}
    async with http.post("/v1/infer", params=query, data=PNG, headers=headers) as response:
        return response.status, await response.json()


async def is_in_state(http, state):
    """Whether the model is in a state: "active" while it has something to do."""
    async with http.get("/v1/models/confined") as response:
        return (await response.json())["state"] == state


async def is_queue(http, length):
    """Whether so many requests wait for the model."""
    return await metric(http, "mataserver_queue_length") == length


@pytest.mark.parametrize("engine", ["process", "thread"])
async def test_a_model_that_hangs(tmp_path, engine):
    """Who waits for it, before it or behind it, is answered 503; no process is left."""
    async with serving(tmp_path, engine=engine) as (server, http):
        assert (await ask(http, "rights"))[0] == 200
        waiting = [asyncio.create_task(ask(http, "hang")) for _ in range(5)]
        with_it = {"process": 3, "thread": 2}[engine]
        await until(lambda: is_queue(http, len(waiting) - with_it))
        pids = descendants(server.process.pid)
        await server.end()
        assert [await each for each in waiting] == [(503, STOPPING)] * 5
        assert all(map(gone, pids))


@pytest.mark.parametrize("engine", ["process", "thread"])
async def test_a_load_that_is_under_way(tmp_path, engine):
    """Who waits for it is answered 503 after half of the time."""
    (tmp_path / "hangs-at-load").touch()
    async with serving(tmp_path, engine=engine) as (server, http):
        waiting = asyncio.create_task(ask(http, "rights"))
        await until(lambda: is_in_state(http, "loading"))
        await server.end()
        assert await waiting == (503, STOPPING)


@pytest.mark.parametrize("engine", ["process", "thread"])
async def test_a_model_that_does_not_close(tmp_path, engine):
    """A model whose close hangs is killed at the end of the time."""
    (tmp_path / "hangs-at-close").touch()
    async with serving(tmp_path, engine=engine) as (server, http):
        assert (await ask(http, "rights"))[0] == 200
        await server.end()


async def test_a_stream_whose_model_hangs(tmp_path):
    """Its socket is closed with 1001."""
    async with serving(tmp_path) as (server, http):
        asked = {"model": "confined", "params": {"prompt": "hang"}}
        async with http.post("/v1/sessions", json=asked) as response:
            url = (await response.json())["ws_url"] + "?token=test-key"
        async with http.ws_connect(url) as socket:
            await socket.send_bytes(PNG)
            await until(lambda: is_in_state(http, "active"))
            ending = asyncio.create_task(server.end())
            while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
            assert socket.close_code == 1001, message
            await ending


async def test_an_answer_that_is_nearly_there(tmp_path):
    """What is done within the time is answered well, and the rest of it is not waited for."""
    async with serving(tmp_path, drain_timeout=600.0) as (server, http):
        assert (await ask(http, "rights"))[0] == 200
        waiting = asyncio.create_task(ask(http, "wait"))
        await until(lambda: is_in_state(http, "active"))
        await server.end()
        assert (await waiting)[0] == 200


async def test_a_pull_that_hangs(tmp_path):
    """A download whose hub says nothing is given up, and its client told so."""
    asked = asyncio.Event()

    async def silent(reader, writer):
        asked.set()
        await reader.read()  # until who asks is gone
        writer.close()

    hub = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = hub.sockets[0].getsockname()[1]
    variables = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path / "hf")}
    served = serving(tmp_path, "mataserver.testing:fake", variables)
    async with hub, served as (server, http):
        pull = http.post("/v1/models/pull", json={"model": "org/name", "task": "detect"})
        waiting = asyncio.ensure_future(pull)
        await until(lambda: descendants(server.process.pid))
        await asked.wait()
        pids = descendants(server.process.pid)
        await server.end()
        async with await waiting as response:
            assert (response.status, await response.json()) == (503, STOPPING)
        assert all(map(gone, pids))


async def test_all_at_once(tmp_path):
    """A hung model, a load, a stream, a pull and a job: each that can be is told, all are gone."""

    async def silent(reader, writer):
        await reader.read()
        writer.close()

    hub = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = hub.sockets[0].getsockname()[1]
    variables = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path / "hf")}
    chosen = {"plugins": {"database": {}, "jobs": {}}, "registered": ("confined", "neighbour")}
    served = serving(tmp_path, "mataserver.testing:fake", variables, **chosen)
    async with hub, served as (server, http), asyncio.timeout(120):
        assert (await ask(http, "rights"))[0] == 200
        asked = {"model": "confined", "params": {"prompt": "hang"}}
        async with http.post("/v1/sessions", json=asked) as response:
            url = (await response.json())["ws_url"] + "?token=test-key"
        (tmp_path / "hangs-at-load").touch()
        waiting = [
            asyncio.create_task(ask(http, *each)) for each in (["hang"], ["rights", "neighbour"])
        ]
        pull = http.post("/v1/models/pull", json={"model": "org/name", "task": "detect"})
        pulling = asyncio.ensure_future(pull)
        query = {"model": "confined", "params": '{"prompt": "hang"}'}
        async with http.post("/v1/jobs/infer", params=query, data=zipped()) as response:
            assert response.status == 202, await response.text()
            job = (await response.json())["id"]
        async with http.ws_connect(url) as socket:
            await socket.send_bytes(PNG)
            while True:
                async with http.get(f"/v1/jobs/{job}") as response:
                    if (await response.json())["state"] == "running":
                        break
                await asyncio.sleep(0.1)
            await until(lambda: len(descendants(server.process.pid)) >= 5, 20)
            pids = descendants(server.process.pid)
            ending = asyncio.create_task(server.end())
            while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
            assert socket.close_code == 1001, message
            await ending
        told = (tmp_path / "log").read_text()
        assert "in time" not in told, told  # each part has the time that is left of the whole
        assert [await each for each in waiting] == [(503, STOPPING)] * 2
        async with await pulling as response:
            assert (response.status, await response.json()) == (503, STOPPING)
        assert all(map(gone, pids))


def zipped():
    """Return a ZIP with a picture."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a.png", PNG)
    return file.getvalue()


STUBBORN = """
import asyncio, time
from mataserver import Route, hookimpl
class Stubborn:
    def __init__(self, ctx):
        self._ctx = ctx
    def routes(self):
        return [Route("GET", "/v1/stubborn", self.never, "Never", "stubborn", needs=None)]
    async def never(self, request):
        if request is not None:
            (self._ctx.data_dir / "asked").touch()
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass
    async def __aenter__(self):
        self._ctx.tasks.spawn(self.never(None), "never")
        return self
    async def __aexit__(self, *exc):
        await self.never(None)
class Plugin:
    @hookimpl
    def service(self, ctx):
        return Stubborn(ctx)
plugin = Plugin()
"""


@pytest.mark.parametrize("asked", [False, True])
async def test_a_service_that_does_not_stop(tmp_path, asked):
    """A plugin whose handlers, tasks and end swallow their cancellation keeps nobody."""
    (tmp_path / "stubborn_plugin.py").write_text(STUBBORN)
    path = os.pathsep.join([str(tmp_path), *(each for each in sys.path if each)])
    environment = {"PYTHONPATH": path}
    async with serving(tmp_path, "stubborn_plugin:plugin", environment) as (server, http):
        request = asyncio.ensure_future(http.get("/v1/stubborn")) if asked else None
        if request is not None:
            await until((tmp_path / "asked").exists)
        await server.end()
        if request is not None:
            with pytest.raises(aiohttp.ClientError):
                await request
