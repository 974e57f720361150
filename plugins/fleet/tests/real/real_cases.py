"""The fleet over real Tritons: pushed, reloaded, killed, counted, and asked through the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path

import aiohttp
import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).resolve().parent)]

from onnx_files import adding  # noqa: E402
from real_triton import RealTriton  # noqa: E402
from test_models import form, push  # noqa: E402

from conftest import Client  # noqa: E402
from mataserver.testing import FAKE, installed, serving  # noqa: E402

ASKED = {
    "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]}],
}


@pytest.fixture
async def tritons():
    """Two real Tritons."""
    made = [RealTriton(), RealTriton()]
    try:
        for each in made:
            await each.start()
        yield made
    finally:
        for each in made:
            each.close()


@pytest.fixture
async def client(tritons, tmp_path):
    """A client of a server with both of them, registered."""
    plugins = {"fleet": {"probe": 0.5, "load_timeout": 30.0}}
    settings = {"engine": "thread", "plugins": plugins, "outbound_hosts": ["127.0.0.1"]}
    points = [FAKE, *installed("database", "accounts", "fleet")]
    async with (
        serving(tmp_path, entry_points=points, **settings) as served,
        aiohttp.ClientSession() as http,
    ):
        made = Client(http, served)
        for number, each in enumerate(tritons):
            # The first one is sent models by gRPC, the other by HTTP.
            ports = {"metrics_port": each.metrics_port}
            ports |= {} if number else {"grpc_port": each.grpc_port}
            body = {"name": f"t{number}", "host": "127.0.0.1", "port": each.port, **ports}
            await made.made("/api/tritons", body)
            await until(lambda n=number: told(made, f"/api/tritons/t{n}", "state", "ready"))
        yield made


async def told(client, path, field, wanted):
    """Return what is told of a thing, once a field is as wanted."""
    _, found = await client.ask("GET", path)
    return found if found[field] == wanted else None


async def until(true, seconds=20.0):
    """Wait until something is so; return it."""
    async with asyncio.timeout(seconds):
        while not (found := await true()):
            await asyncio.sleep(0.02)
        return found


async def infer(http, url):
    """Ask a model; return status and what it made of 1, 2, 3, or the error."""
    with contextlib.suppress(aiohttp.ClientError):
        async with http.post(url, json=ASKED) as response:
            answer = await response.json(content_type=None)
            made = answer["outputs"][0]["data"] if response.status == 200 else answer["error"]
            return response.status, made
    return 0, None


async def test_a_models_life(client, tritons):
    """Pushed to two, changed, refused with the old one serving on, unloaded; each count is kept."""
    await push(client, "m", {"model.onnx": adding(1)})
    status, done = await client.ask("POST", "/api/models/m/load")
    assert (status, done["status"]) == (200, "ok"), done
    async with aiohttp.ClientSession() as http:
        for each in tritons:
            answer = await infer(http, f"{each.url}/v2/models/m/infer")
            assert answer == (200, [2.0, 3.0, 4.0])
        model = await until(lambda: told(client, "/api/models/m", "inference_count", "2"))
        address = f"127.0.0.1:{tritons[0].port}"
        assert model["config"][address]["inputs"] == [
            {"name": "x", "datatype": "FP32", "shape": [-1, 3]}
        ]
        failures, stop = [], asyncio.Event()

        async def hammer():
            while not stop.is_set():
                status, _ = await infer(http, f"{tritons[0].url}/v2/models/m/infer")
                if status != 200:
                    failures.append(status)

        hammering = asyncio.create_task(hammer())
        path = "/api/models/m/versions?load=true"
        assert (await client.ask("POST", path, data=form({"model.onnx": adding(5)})))[0] == 201
        stop.set()
        await hammering
        assert failures == [], "a reload costs no request"
        for each in tritons:
            answer = await infer(http, f"{each.url}/v2/models/m/infer")
            assert answer == (200, [6.0, 7.0, 8.0])
        config = 'input { name: "x" data_type: TYPE_FP32 dims: [-1, 3] }'
        config += 'output { name: "y" data_type: TYPE_FP32 dims: [-1, 3] } backend: "onnxruntime"'
        files = {"config.pbtxt": config, "model.onnx": b"no model at all"}
        assert (await client.ask("POST", "/api/models/m/versions", data=form(files)))[0] == 201
        status, done = await client.ask("POST", "/api/models/m/load")
        assert (status, done["status"]) == (502, "partial")
        assert "m is not loaded at t0: " in done["detail"]
        assert (await infer(http, f"{tritons[0].url}/v2/models/m/infer"))[1] == [6.0, 7.0, 8.0]
        status, done = await client.ask("POST", "/api/models/m/load", json={"versions": [1, 2]})
        assert status == 200, done
        for version, first in (("1", 2.0), ("2", 6.0)):
            url = f"{tritons[1].url}/v2/models/m/versions/{version}/infer"
            assert (await infer(http, url))[1][0] == first
        assert (await client.ask("POST", "/api/models/m/unload"))[0] == 200
        assert (await infer(http, f"{tritons[0].url}/v2/models/m/infer"))[0] in {400, 404}
    _, model = await client.ask("GET", "/api/models/m")
    assert (model["state"], int(model["inference_count"]) >= 6) == ("unloaded", True)


async def test_a_triton_is_killed(client, tritons, capsys):
    """Under load by the gateway no request fails; the killed one is reconciled within 5 s."""
    await push(client, "m", {"model.onnx": adding(1)})
    begun = time.monotonic()
    assert (await client.ask("POST", "/api/models/m/load"))[0] == 200
    loading = time.monotonic() - begun
    await client.made("/api/apps", {"name": "shop", "resend": True})
    await client.made("/api/apps/shop/routes/m")
    key = (await client.made("/api/apps/shop/consumers/till"))["key"]
    url = f"{client.server.url}/gateway/shop/v2/models/m/infer"
    answers, stop = [], asyncio.Event()
    async with aiohttp.ClientSession(headers={"apikey": key}) as http:
        await until(lambda: _served(http, url))

        async def hammer():
            while not stop.is_set():
                answers.append((await infer(http, url))[0])
                await asyncio.sleep(0.01)  # the loading is measured, not this process's hurry

        hammering = [asyncio.create_task(hammer()) for _ in range(3)]
        await asyncio.sleep(0.5)
        tritons[0].kill()
        await until(lambda: told(client, "/api/tritons/t0", "state", "offline"))
        assert (await client.ask("GET", "/api/models/m"))[1]["state"] == "partial"
        await tritons[0].start()
        begun = time.monotonic()
        await until(lambda: told(client, "/api/models/m", "state", "ready"))
        taken = time.monotonic() - begun
        stop.set()
        await asyncio.gather(*hammering)
        assert (await infer(http, f"{tritons[0].url}/v2/models/m/infer"))[1] == [2.0, 3.0, 4.0]
    with capsys.disabled():
        sys.stdout.write(
            f"\n{len(answers)} requests; a load took {loading:.1f} s,"
            f" the killed one was reconciled {taken:.1f} s after it was live\n"
        )
    assert set(answers) == {200}
    assert taken <= 5.0


async def _served(http, url):
    return (await infer(http, url))[0] == 200
