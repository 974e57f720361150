"""The open routes and the plugins: health, readiness, metrics."""

from __future__ import annotations

import asyncio
import json
import re
import threading

import aiohttp
import pytest

import mataserver
from api_answers import JSON, exchange, head_of, no_leak, problem, until
from mataserver import testing
from mataserver.engines.memory import Gpu, MemoryProbe, resident_bytes


class OneGpu(MemoryProbe):
    """A machine with one GPU."""

    def gpus(self):
        """Return it."""
        return [Gpu(total=8_000_000_000, used=0)]


async def get(session, path):
    """Return the decoded answer to a GET that must be 200."""
    async with session.get(path) as response:
        assert response.status == 200
        assert response.content_type == JSON
        return await response.json()


async def test_health_has_three_fields(http):
    """GET /v1/health: status "ok", the package's version, and whether there is a GPU."""
    body = await get(http, "/v1/health")
    assert set(body) == {"status", "version", "gpu_available"}
    assert body["status"] == "ok"
    assert body["version"] == mataserver.__version__
    assert isinstance(body["gpu_available"], bool)


@pytest.mark.parametrize(("probe", "there"), [(OneGpu(), True), (None, False)])
async def test_gpu_available_is_what_the_driver_says(data_dir, probe, there):
    """A CUDA GPU makes gpu_available true; this machine has none."""
    async with (
        testing.serving(data_dir, engine="thread", probe=probe) as served,
        aiohttp.ClientSession(served.url) as session,
    ):
        assert (await get(session, "/v1/health"))["gpu_available"] is there


class SlowDriver(MemoryProbe):
    """A machine whose devices are read only once it is told to."""

    def __init__(self):
        super().__init__()
        self.may = threading.Event()

    def devices(self):
        """Return them then."""
        assert self.may.wait(60)
        return super().devices()


async def test_who_asks_for_metrics_at_once_shares_one_text(data_dir):
    """Twenty who wait for the same devices cost the event loop one text; the next has its own."""
    probe, made = SlowDriver(), []
    async with (
        testing.serving(data_dir, engine="thread", probe=probe) as served,
        aiohttp.ClientSession(served.url) as session,
    ):

        async def metrics():
            async with session.get("/metrics") as response:
                return response.status, await response.text()

        served.composed.metrics.registry.before_collect(lambda: made.append(1))
        many = [asyncio.create_task(metrics()) for _ in range(20)]
        await until(lambda: served.composed.lifecycle.active == 20)
        probe.may.set()
        assert {status for status, _ in await asyncio.gather(*many)} == {200}
        assert len(made) == 1
        status, text = await metrics()
    assert (status, len(made)) == (200, 2)
    assert 'requests_total{method="GET",route="/metrics",status="200"} 20.0' in text


async def test_the_plain_health_says_what_is_configured(data_dir):
    """health_status changes GET /health, and GET /v1/health stays "ok"."""
    async with (
        testing.serving(data_dir, engine="thread", health_status="healthy") as served,
        aiohttp.ClientSession(served.url) as session,
    ):
        assert (await get(session, "/health"))["status"] == "healthy"
        assert (await get(session, "/v1/health"))["status"] == "ok"


@pytest.mark.parametrize(
    "path", ["/v1/health", "/health", "/ready", "/metrics", "/docs", "/redoc", "/openapi.json"]
)
async def test_open_routes_need_no_key(server, path):
    """The routes for probes and readers answer 200 without a key."""
    async with aiohttp.ClientSession(server.url) as session, session.get(path) as response:
        assert response.status == 200
        assert response.headers["X-Request-Id"]


async def test_ready_without_preloads(http):
    """GET /ready is 200 at once when nothing has to be loaded."""
    assert await get(http, "/ready") == {"status": "ready"}


async def test_ready_waits_for_a_preloaded_model(data_dir):
    """GET /ready is 503 while a configured model loads, says which one, and then 200."""
    models = [{"model": "fake-detect", "preload": True}]
    settings = {"models": models, "plugins": {"fake": {"load_seconds": 0.3}}}
    async with (
        testing.serving(data_dir, engine="thread", **settings) as served,
        aiohttp.ClientSession(served.url) as session,
    ):
        async with session.get("/ready") as response:
            body = await response.json()
            assert response.status == 503
        assert body["status"] == "not ready"
        assert set(body["waiting"]) == {"fake-detect"}
        assert "fake-detect" in body["detail"]

        async def ready():
            async with session.get("/ready") as response:
                return response.status == 200

        await until(ready)


async def test_ready_tells_of_a_preload_that_failed(data_dir):
    """A preloaded model that cannot be loaded keeps /ready at 503, without the error's text."""
    models = [{"model": "fake-detect", "preload": True}]
    settings = {"models": models, "plugins": {"fake": {"load_fails": True}}}
    async with (
        testing.serving(data_dir, engine="thread", **settings) as served,
        aiohttp.ClientSession(served.url) as session,
    ):

        async def failed():
            async with session.get("/ready") as response:
                assert response.status == 503
                text = await response.text()
                no_leak(text)
                return "could not be loaded" in text

        await until(failed)


async def test_ready_tells_of_a_preload_that_no_plugin_serves(data_dir):
    """The plugin of a registered model was uninstalled: its load fails before it begins."""
    path = data_dir / "model_registry.json"
    async with testing.serving(data_dir, models=[{"model": "fake-detect"}]):
        pass
    kept = path.read_text()
    path.write_text(kept.replace("fake-detect", "lost-detect"))
    models = [{"model": "lost-detect", "preload": True}]
    async with (
        testing.serving(data_dir, engine="thread", models=models) as served,
        aiohttp.ClientSession(served.url) as session,
        session.get("/ready") as response,
    ):
        why = "No installed plugin serves lost-detect for the task detect"
        assert (response.status, (await response.json())["waiting"]) == (503, {"lost-detect": why})


async def test_metrics_are_prometheus_text(http):
    """GET /metrics answers the exposition format with the core's metrics."""
    await get(http, "/v1/models")
    async with http.get("/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = await response.text()
    line = 'mataserver_requests_total{method="GET",route="/v1/models",status="200"} 1.0'
    assert line in text.splitlines()


class NoThread(OneGpu):
    """One whose memory was read once; then the system had no thread left."""

    count = 0

    def devices(self):
        """Return it."""
        self.count += 1
        if self.count > 1:
            raise RuntimeError("can't start new thread")
        return super().devices()


async def test_metrics_without_a_thread(data_dir):
    """They are given all the same, with what was read of the devices before."""
    async with (
        testing.serving(data_dir, engine="thread", probe=NoThread()) as served,
        aiohttp.ClientSession(served.url) as session,
    ):
        for _ in range(2):
            async with session.get("/metrics") as response:
                assert response.status == 200
                assert 'kind="used"' in await response.text()


async def test_memory_of_the_devices(data_dir):
    """The machine's memory is what its kernel tells, the GPU's what its driver tells."""
    async with (
        testing.serving(data_dir, engine="thread", probe=OneGpu()) as served,
        aiohttp.ClientSession(served.url) as session,
        session.get("/metrics") as response,
    ):
        text = await response.text()
    pattern = r'mataserver_device_memory_bytes{device="(.+)",kind="(.+)"} (.+)'
    found = {each.group(1, 2): float(each[3]) for each in re.finditer(pattern, text)}
    assert found["ram", "total"] == OneGpu().ram_total()
    assert resident_bytes() < found["ram", "used"] < found["ram", "total"]
    assert (found["cuda:0", "total"], found["cuda:0", "used"]) == (8e9, 0)


async def test_metrics_can_be_closed(data_dir):
    """With metrics_public off, GET /metrics needs a key."""
    async with (
        testing.serving(data_dir, engine="thread", metrics_public=False) as served,
        aiohttp.ClientSession(served.url) as session,
    ):
        async with session.get("/metrics") as response:
            await problem(response, 401)
        async with session.get("/metrics", headers=served.headers) as response:
            assert response.status == 200


async def test_odd_methods_make_no_metric_each(server, http):
    """Methods that no route can have are counted together: a client cannot grow the metrics."""
    for method in ("PROPFIND", "MKCOL"):
        status, headers, _ = await exchange(server, head_of(server, "/v1/models", method=method))
        assert (status, headers["allow"]) == (405, "GET,HEAD")
    async with http.get("/metrics") as response:
        text = await response.text()
    assert 'method="other",route="unmatched",status="405"} 2.0' in text
    assert "PROPFIND" not in text


async def test_plugins_lists_backends(http):
    """GET /v1/plugins: every backend with its task, and what one that is absent needs."""
    plugin, *guests = await get(http, "/v1/plugins")
    assert [each["backends"] for each in guests] == [[], []]  # the protocols
    assert set(plugin) == {"name", "distribution", "version", "backends"}
    backends = {each["name"]: each for each in plugin["backends"]}
    assert backends["fake-detect"] == {
        "name": "fake-detect",
        "task": "detect",
        "source": "pip",
        "engine": "process",
        "missing": [],
    }
    assert backends["fake-absent"]["missing"] == ["a_module_that_nobody_has"]
    assert backends["fake-absent"]["install"] == "pip install 'a-package-that-nobody-has'"


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_the_pages_need_no_other_host(http, path):
    """The documentation pages and all they load come from this server."""
    async with http.get(path) as response:
        assert response.content_type == "text/html"
        page = await response.text()
    assert "http://" not in page
    assert "https://" not in page
    named = re.findall(r'"/?(static/[^"]+)"', page)
    assert named
    for name in named:
        async with http.get(f"/{name}") as response:
            assert response.status == 200


async def test_a_file_of_the_pages_is_sent_once_and_small(http):
    """It is compressed, and 304 for a browser that has it: Swagger UI alone has 1.7 MB."""
    path, asked = "/static/swagger-ui-bundle.js", {"Accept-Encoding": "gzip"}
    async with http.get(path, headers=asked) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert int(response.headers["Content-Length"]) < 500_000
        asked["If-None-Match"] = response.headers["ETag"]
    async with http.get(path, headers=asked) as response:
        assert response.status == 304


@pytest.mark.parametrize("name", ["none.js", "..%2f..%2fapp.py", "a%00.html", "%2e%2e", "x.py"])
async def test_static_serves_nothing_else(server, name):
    """No name leads out of the pages' folder."""
    status, _, body = await exchange(server, head_of(server, f"/static/{name}", method="GET"))
    assert status == 404
    assert json.loads(body) == {"detail": "Not found"}
