"""The fleet over real Tritons: pushed, reloaded, killed, counted, and asked through the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(Path(__file__).resolve().parent)]

from fleet_client import Client  # noqa: E402
from fleet_server import FleetServer  # noqa: E402
from onnx_files import adding  # noqa: E402
from real_triton import RealTriton  # noqa: E402
from test_models import form, push  # noqa: E402

from mataserver.testing import FAKE, installed, serving  # noqa: E402
from mataserver_database.testing import new_database, running_postgres  # noqa: E402

KILLS = int(os.environ.get("FLEET_KILLS", "2"))
"""How often a Triton is killed: ten are a matter of a minute."""
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
    shared = [str(each.folder / "repository") for each in tritons]
    plugins = {"fleet": {"probe": 0.5, "load_timeout": 120.0, "shared_folders": shared}}
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


async def test_a_shared_repository(client, tritons):
    """Laid where the Triton reads, loaded, changed, refused with the old one serving on, killed."""
    await push(client, "m", {"model.onnx": adding(1)})
    shared = {"path": str(tritons[0].folder / "repository")}
    assert (await client.ask("PATCH", "/api/tritons/t0", json=shared))[0] == 200
    url, path = f"{tritons[0].url}/v2/models/m/infer", "/api/models/m/versions?load=true"
    assert (await client.ask("POST", "/api/models/m/load"))[0] == 200
    async with aiohttp.ClientSession() as http:
        assert await infer(http, url) == (200, [2.0, 3.0, 4.0])
        assert (await client.ask("POST", path, data=form({"model.onnx": adding(5)})))[0] == 201
        assert await infer(http, url) == (200, [6.0, 7.0, 8.0])
        config = 'input { name: "x" data_type: TYPE_FP32 dims: [-1, 3] }'
        config += 'output { name: "y" data_type: TYPE_FP32 dims: [-1, 3] } backend: "onnxruntime"'
        files = {"config.pbtxt": config, "model.onnx": b"no model at all"}
        await client.ask("POST", path, data=form(files))
        assert "m is not loaded" in (await client.ask("POST", "/api/models/m/load"))[1]["detail"]
        assert await infer(http, url) == (200, [6.0, 7.0, 8.0])
        laid = {each.parent.name for each in Path(shared["path"]).rglob("model.onnx")}
        assert laid == {"1", "2", "3"}
        tritons[0].kill()
        await until(lambda: told(client, "/api/tritons/t0", "state", "offline"))
        await tritons[0].start()

        async def back():
            return (await infer(http, url)) == (200, [6.0, 7.0, 8.0])

        await until(back, 60.0)


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


async def test_what_was_there_is_adopted(client, run, tritons):
    """What a Triton serves from its own repository is taken over, and given to the other one too.

    Also where the configuration is no file, but only what the Triton tells of it.
    """
    root = tritons[0].folder / "repository"
    config = 'backend: "onnxruntime" input { name: "x" data_type: TYPE_FP32 dims: [-1, 3] }'
    config += 'output { name: "y" data_type: TYPE_FP32 dims: [-1, 3] }'
    async with aiohttp.ClientSession() as http:
        for number, name in ((3, "old"), (4, "bare"), (5, "idle")):
            (root / name / "1").mkdir(parents=True)
            (root / name / "1" / "model.onnx").write_bytes(adding(number))
            (root / name / "config.pbtxt").write_text(config)
            if name != "idle":
                url = f"{tritons[0].url}/v2/repository/models/{name}/load"
                async with http.post(url, json={}) as response:
                    assert response.status == 200, await response.text()
        (root / "bare" / "config.pbtxt").unlink()
        status, said, refusal = await run("adopt", "t0", "--repository", str(root))
        assert (status, said.splitlines()) == (0, [
            "added version 1 to bare",
            "bare is the fleet's at t0: 1",
            "idle is not served at t0: it stays as it is",
            "added version 1 to old",
            "old is the fleet's at t0: 1",
        ]), refusal  # fmt: skip
        for number, name in ((3, "old"), (4, "bare")):
            assert (await client.ask("POST", f"/api/models/{name}/load"))[0] == 200
            for each in tritons:
                answer = await infer(http, f"{each.url}/v2/models/{name}/infer")
                assert answer == (200, [1.0 + number, 2.0 + number, 3.0 + number])


async def shop(client, **app):
    """Make an application with the model m; return its URL and a key."""
    await client.made("/api/apps", {"name": "shop", **app})
    await client.made("/api/apps/shop/routes/m")
    key = (await client.made("/api/apps/shop/consumers/till"))["key"]
    return f"{client.server.url}/gateway/shop/v2/models/m/infer", key


class Load:
    """Asks the gateway without a pause to speak of, and keeps every status."""

    def __init__(self, http, url, clients=3):
        self.answers, self._stop = [], asyncio.Event()
        self._asking = [asyncio.create_task(self._ask(http, url)) for _ in range(clients)]

    async def _ask(self, http, url):
        while not self._stop.is_set():
            self.answers.append((await infer(http, url))[0])
            await asyncio.sleep(0.01)  # the loading is measured, not this process's hurry

    async def stop(self):
        """End; return how often each status came."""
        self._stop.set()
        await asyncio.gather(*self._asking)
        return Counter(self.answers)


async def asked(http, triton):
    """Whether a Triton has inferred since its start."""
    with contextlib.suppress(aiohttp.ClientError):
        async with http.get(f"{triton.url}/v2/models/m/stats") as response:
            if response.status == 200:
                return (await response.json())["model_stats"][0]["inference_count"]
    return 0


async def test_tritons_are_killed(client, tritons, capsys):
    """Under load no request fails; the killed one has its model and is asked within 5 s."""
    await push(client, "m", {"model.onnx": adding(1)})
    begun = time.monotonic()
    assert (await client.ask("POST", "/api/models/m/load"))[0] == 200
    loading, taken = time.monotonic() - begun, []
    url, key = await shop(client, resend=True)
    async with aiohttp.ClientSession(headers={"apikey": key}) as http:
        await until(lambda: _served(http, url))
        load = Load(http, url)
        for number in range(KILLS):
            killed, name = tritons[number % 2], f"t{number % 2}"
            before = len(load.answers)
            await until(lambda b=before: _more(load, b + 20))
            killed.kill()
            await until(lambda n=name: told(client, f"/api/tritons/{n}", "state", "offline"))
            assert (await client.ask("GET", "/api/models/m"))[1]["state"] == "partial"
            await killed.start()
            begun = time.monotonic()
            await until(lambda: told(client, "/api/models/m", "state", "ready"))
            await until(lambda k=killed: asked(http, k))
            taken.append(time.monotonic() - begun)
        found = await load.stop()
        for each in tritons:
            assert (await infer(http, f"{each.url}/v2/models/m/infer"))[1] == [2.0, 3.0, 4.0]
    with capsys.disabled():
        sys.stdout.write(
            f"\n{found} of {KILLS} kills; a load took {loading:.1f} s, the killed one had its model"
            f" and was asked {min(taken):.1f} to {max(taken):.1f} s after it was live\n"
        )
    assert set(found) == {200}
    # Each load takes as long as the machine lets it: one that is late among others tells nothing.
    assert statistics.median(taken) <= max(5.0, 4 * loading)


async def _more(load, count):
    return len(load.answers) >= count


async def _served(http, url):
    return (await infer(http, url))[0] == 200


async def test_reloads_under_load(client, tritons):
    """Neither a new version in the old one's place nor one beside it costs a request."""
    await push(client, "m", {"model.onnx": adding(1)})
    assert (await client.ask("POST", "/api/models/m/load"))[0] == 200
    url, key = await shop(client)  # no request is sent twice
    async with aiohttp.ClientSession(headers={"apikey": key}) as http:
        await until(lambda: _served(http, url))
        load = Load(http, url)
        for number in range(2, 5):
            path = "/api/models/m/versions?load=true"
            made = await client.ask("POST", path, data=form({"model.onnx": adding(number)}))
            assert made[0] == 201, made
            assert (await infer(http, url))[1][0] == 1.0 + number
        both = {"versions": [3, 4]}
        assert (await client.ask("POST", "/api/models/m/load", json=both))[0] == 200
        assert set(await load.stop()) == {200}
    assert len(tritons) == 2


async def test_a_gateway_is_killed(tritons, tmp_path):
    """Of two on one database the other serves on, and what it was told it knows."""
    with running_postgres() as server, contextlib.ExitStack() as stack:
        place = await new_database(server, "gateways")
        first, second = (
            stack.enter_context(gateway(tmp_path, name, place)) for name in ("first", "second")
        )
        async with aiohttp.ClientSession() as http:
            client = Client(http, first)
            for number, each in enumerate(tritons):
                body = {"name": f"t{number}", "host": "127.0.0.1", "port": each.port}
                await client.made("/api/tritons", body)
                await until(lambda n=number: told(client, f"/api/tritons/t{n}", "state", "ready"))
            await push(client, "m", {"model.onnx": adding(1)})
            assert (await client.ask("POST", "/api/models/m/load"))[0] == 200
            url, key = await shop(client)
            other = url.replace(first.url, second.url)
        async with aiohttp.ClientSession(headers={"apikey": key}) as http:
            await until(lambda: _served(http, url))
            await until(lambda: _served(http, other))
            dying, living = Load(http, url), Load(http, other)
            await until(lambda: _more(living, 20))
            await until(lambda: _more(dying, 20))
            first.kill()
            after = len(living.answers)
            await until(lambda: _more(living, after + 50))
            assert set(await living.stop()) == {200}
            assert set(await dying.stop()) == {200, 0}
            client = Client(http, second)
            await client.made("/api/apps", {"name": "later"})
            tritons[0].kill()  # whoever reconciled is gone: the other one does it now
            await tritons[0].start()
            await until(lambda: told(client, "/api/models/m", "state", "ready"), 60.0)
            await until(lambda: asked_directly(http, tritons[0]), 60.0)


async def asked_directly(http, triton):
    """Whether a Triton answers for the model."""
    return (await infer(http, f"{triton.url}/v2/models/m/infer"))[0] == 200


def gateway(folder, name, database):
    """Return a server of the fleet in a process of its own, on a database that it shares."""
    fleet = {"probe": 0.5, "load_timeout": 30.0, "folder": str(folder / "files")}
    return FleetServer(folder / name, fleet, database={"url": database})
