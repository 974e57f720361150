"""kill -9 of the server while it serves: no process of it, of a model or of a camera is left.

What models have started is in ``test_confinement.py``, more of jobs in ``plugins/jobs``.
"""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from api_answers import until
from camera_sources import make_video
from conftest import picture
from test_confinement import descendants, gone
from test_shutdown import ask, serving, zipped

PNG = picture()
SECONDS = 2.0


async def dies(server, *, family):
    """Kill a server that has at least as many descendants; they must be gone in time."""
    await until(lambda: len(descendants(server.process.pid)) >= family, 20)
    pids = descendants(server.process.pid)
    server.process.kill()
    begun = time.monotonic()
    await until(lambda: all(map(gone, pids)), SECONDS)
    assert time.monotonic() - begun < SECONDS


async def session(http, **asked):
    """Create a session of a model that hangs; return the address of its socket."""
    body = {"model": "confined", "params": {"prompt": "hang"}} | asked
    async with http.post("/v1/sessions", json=body) as response:
        assert response.status == 201, await response.text()
        return (await response.json())["ws_url"] + "?token=test-key"


@pytest.mark.parametrize("moment", ["loads", "hangs", "idles", "arrives"])
async def test_in_a_request(tmp_path, moment):
    """A model is being loaded, hangs, has nothing to do, or what it is to be asked still comes."""
    if moment == "loads":
        (tmp_path / "hangs-at-load").touch()
    async with serving(tmp_path) as (server, http):
        writer = asking = None
        if moment in {"loads", "hangs"}:
            asking = asyncio.create_task(ask(http, "hang"))
        else:
            assert (await ask(http, "rights"))[0] == 200
        if moment == "arrives":
            host, port = server.url.removeprefix("http://").split(":")
            _, writer = await asyncio.open_connection(host, int(port))
            head = "POST /v1/infer?model=confined&prompt=rights HTTP/1.1\r\nHost: localhost\r\n"
            head += "Authorization: Bearer test-key\r\nContent-Type: image/png\r\n"
            writer.write(f"{head}Content-Length: 100000\r\n\r\n".encode() + PNG)
        await asyncio.sleep(0.5)
        await dies(server, family=2)
        if writer is not None:
            writer.close()
        if asking is not None:
            await asyncio.wait([asking])
            assert isinstance(asking.exception(), Exception)


async def test_in_a_job(tmp_path):
    """A job asks a model that hangs."""
    async with serving(tmp_path, plugins={"database": {}, "jobs": {}}) as (server, http):
        query = {"model": "confined", "params": '{"prompt": "hang"}'}
        async with http.post("/v1/jobs/infer", params=query, data=zipped()) as response:
            assert response.status == 202, await response.text()
        await dies(server, family=3)  # and the job's


async def test_in_a_stream(tmp_path):
    """A frame is with a model that hangs."""
    async with (
        serving(tmp_path) as (server, http),
        http.ws_connect(await session(http)) as socket,
    ):
        await socket.send_bytes(PNG)
        await dies(server, family=2)  # the zygote and the worker


async def test_with_a_camera(tmp_path):
    """A camera is read, and its model hangs."""
    video = make_video(tmp_path / "film.mp4", count=50)
    async with (
        serving(tmp_path, plugins={"cameras": {"camera_paths": [str(tmp_path)]}}) as (server, http),
        http.ws_connect(await session(http, source=str(video))),
    ):
        await dies(server, family=3)  # and the camera's


async def test_in_a_pull(tmp_path):
    """A download waits for a hub that says nothing."""

    async def silent(reader, writer):
        await reader.read()
        writer.close()

    hub = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = hub.sockets[0].getsockname()[1]
    variables = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path / "hf")}
    served = serving(tmp_path, "mataserver.testing:fake", variables)
    async with hub, served as (server, http):
        asked = {"model": "org/name", "task": "detect"}
        pulling = asyncio.ensure_future(http.post("/v1/models/pull", json=asked))
        await dies(server, family=1)
        await asyncio.wait([pulling])
        assert isinstance(pulling.exception(), Exception)


@pytest.mark.parametrize("prompt", ["hang", "family"])
async def test_while_it_shuts_down(tmp_path, prompt):
    """It was told to stop, and a model does not, or has started others."""
    (tmp_path / "hangs-at-close").touch()
    async with serving(tmp_path, drain_timeout=30.0) as (server, http):
        asking = asyncio.create_task(ask(http, prompt))
        await until(lambda: len(descendants(server.process.pid)) >= 2, 20)
        if prompt == "family":
            await asking
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        await dies(server, family=2)
        await asyncio.wait([asking])
        assert prompt == "family" or isinstance(asking.exception(), Exception)
