"""The models over REST: list, one, pull, warm up, unload, their states and their errors."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from api_answers import JSON, exchange, head_of, infer, problem, refused, until
from conftest import register
from mataserver import testing
from mataserver.engines.memory import MemoryProbe
from model_calls import PNG, info, post, removed

NUMBERS = ("size_mb", "memory_mb", "loaded_at", "last_used")
FIELDS = {"model", "task", "source", "state", *NUMBERS}


class SmallMachine(MemoryProbe):
    """A machine with little RAM, of which the server itself takes nothing."""

    def __init__(self, ram):
        super().__init__()
        self._ram = ram

    def ram_total(self):
        """Return its RAM in bytes."""
        return self._ram

    def own(self):
        """Return nothing."""
        return 0


async def test_the_list_has_every_model(http):
    """GET /v1/models: an array of ModelInfo, all fields present, null where nothing is loaded."""
    async with http.get("/v1/models") as response:
        assert response.status == 200
        assert response.content_type == JSON
        models = await response.json()
    assert len(models) == 8
    for each in models:
        assert set(each) == FIELDS
        assert each["task"] == each["model"].removeprefix("fake-")
        assert (each["source"], each["state"]) == ("pip", "unloaded")
        assert [each[name] for name in NUMBERS] == [None] * 4


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/fake-detect", "/v1/sessions"])
async def test_a_parameter_that_nobody_knows(http, path):
    """Lists have no filters: what is not applied is 422, and is not passed over."""
    async with http.get(f"{path}?task=detect") as response:
        assert response.status == 422
        assert "task: unknown parameter" in (await response.json())["detail"]


async def test_one_model_looks_like_its_list_item(http):
    """GET /v1/models/{model_id} answers the item of the list."""
    await infer(http, "fake-detect", PNG)
    async with http.get("/v1/models") as response:
        (item,) = [each for each in await response.json() if each["model"] == "fake-detect"]
    assert await info(http) == item


async def test_a_loaded_model_has_numbers(http):
    """After an inference memory, load time and last use are numbers, the times Unix seconds."""
    await infer(http, "fake-detect", PNG)
    loaded = await info(http)
    assert loaded["state"] == "idle"
    assert isinstance(loaded["memory_mb"], float)
    assert 1.7e9 < loaded["loaded_at"] <= loaded["last_used"]
    assert loaded["size_mb"] is None  # a pip backend has no cache


async def test_states_from_unloaded_to_unloaded(http):
    """A model is unloaded, ready after a warm-up, active, idle after use, unloaded; times stay."""
    assert (await info(http))["state"] == "unloaded"
    assert await post(http, "warmup") == (200, {"status": "ready", "model": "fake-detect"})
    ready = await info(http)
    assert (ready["state"], ready["last_used"]) == ("ready", None)
    busy = asyncio.create_task(infer(http, "fake-detect", PNG, seconds=0.2))

    async def active():
        return (await info(http))["state"] == "active"

    await until(active)
    await busy
    assert (await info(http))["state"] == "idle"
    assert await post(http, "unload") == (200, {"status": "unloaded", "model": "fake-detect"})
    after = await info(http)
    assert (after["state"], after["loaded_at"], after["memory_mb"]) == ("unloaded", None, None)
    assert after["last_used"] is not None


async def test_a_loading_model_holds_nobody_up(data_dir):
    """While a model loads its state is loading, and the list and other models answer."""
    settings = {"plugins": {"fake": {"load_seconds": 0.3}}}
    async with (
        testing.serving(data_dir, engine="thread", **settings) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        loads = [asyncio.create_task(post(http, "warmup")) for _ in range(3)]

        async def loading():
            return (await info(http))["state"] == "loading"

        await until(loading)
        assert not any(task.done() for task in loads)
        assert (
            await asyncio.gather(*loads) == [(200, {"status": "ready", "model": "fake-detect"})] * 3
        )
        async with http.get("/metrics") as response:
            line = 'mataserver_model_loads_total{model="fake-detect",outcome="ok"} 1.0'
            assert line in await response.text()


async def test_memory_pressure_evicts_the_older_model(data_dir):
    """Where two models do not fit, loading the second evicts the first, and its state says so."""
    probe = SmallMachine(400_000_000)
    async with (
        testing.serving(data_dir, engine="thread", probe=probe, min_residence=0) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        await infer(http, "fake-detect", PNG)
        await infer(http, "fake-ocr", PNG)
        assert (await info(http))["state"] == "evicted"
        assert (await info(http, "fake-ocr"))["state"] == "idle"


async def test_a_pinned_model_is_not_evicted(data_dir):
    """A pinned model stays where another one needs its room, until it is unpinned."""
    probe = SmallMachine(400_000_000)
    async with (
        testing.serving(data_dir, engine="thread", probe=probe, min_residence=0) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        await infer(http, "fake-detect", PNG)
        assert await post(http, "pin") == (200, {"status": "pinned", "model": "fake-detect"})
        assert (await info(http))["pinned"] is True
        await refused(http, 507, "/v1/models/warmup", json={"model": "fake-ocr"})
        assert (await info(http))["state"] == "idle"
        assert await post(http, "unpin") == (200, {"status": "unpinned", "model": "fake-detect"})
        assert "pinned" not in await info(http)
        await infer(http, "fake-ocr", PNG)
        assert (await info(http))["state"] == "evicted"
        assert (await post(http, "unpin"))[1]["status"] == "not_pinned"


async def test_a_pin_outlives_an_unload_and_not_a_removal(http):
    """A model is pinned before it is loaded; what was removed and pulled again is not pinned."""
    await post(http, "pin")
    await post(http, "warmup")
    await post(http, "unload")
    assert (await info(http))["pinned"] is True
    await removed(http)
    pull = {"model": "fake-detect", "task": "detect"}
    async with http.post("/v1/models/pull", json=pull) as response:
        assert response.status == 202
    assert "pinned" not in await info(http)


async def test_a_pin_of_the_configuration(data_dir):
    """What the configuration pins is shown so before its first load, and cannot be unpinned."""
    models = [{"model": "fake-detect", "pin": True}]
    async with (
        testing.serving(data_dir, engine="thread", models=models) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        assert (await info(http))["pinned"] is True
        detail = await refused(http, 409, "/v1/models/unpin", json={"model": "fake-detect"})
        assert detail == "fake-detect is pinned by the configuration"


async def test_a_model_that_cannot_fit_is_507(data_dir):
    """Warm-up, inference and session alike are 507 when the model does not fit into RAM."""
    async with (
        testing.serving(data_dir, engine="thread", probe=SmallMachine(100_000_000)) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        body = {"model": "fake-detect"}
        for path in ("/v1/models/warmup", "/v1/sessions"):
            assert "memory" in await refused(http, 507, path, json=body)
        headers = {"Content-Type": "image/png"}
        await refused(http, 507, "/v1/infer", params=body, data=PNG, headers=headers)


async def test_a_model_that_fails_to_load_is_500_and_tells_no_secret(data_dir):
    """A load that raises is 500 without the exception's text; the model shows the error."""
    settings = {"plugins": {"fake": {"load_fails": True}}}
    async with (
        testing.serving(data_dir, engine="thread", **settings) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        body = {"model": "fake-detect"}
        detail = await refused(http, 500, "/v1/models/warmup", json=body)
        assert detail == "The model could not be loaded: RuntimeError"
        assert (await info(http))["error"] == detail


async def test_unload_of_what_is_not_loaded(http):
    """Unloading a model that is not in memory is no error and says so."""
    assert await post(http, "unload") == (200, {"status": "not_loaded", "model": "fake-detect"})


async def test_unload_waits_for_an_inference(http):
    """An inference that runs when its model is unloaded is answered first."""
    await post(http, "warmup")
    running = asyncio.create_task(infer(http, "fake-detect", PNG, seconds=0.2))

    async def active():
        return (await info(http))["state"] == "active"

    await until(active)
    assert (await post(http, "unload"))[1]["status"] == "unloaded"
    assert running.done()
    assert (await running)["detections"]


@pytest.mark.parametrize("path", ["warmup", "unload", "pin", "unpin"])
async def test_unregistered_models_are_404(http, path):
    """Nothing is pulled by accident: a model that is not registered is 404."""
    status, body = await post(http, path, "org/never-pulled")
    assert (status, body) == (404, {"detail": "Model not found: org/never-pulled"})


async def test_get_of_an_unregistered_model(http):
    """The documented 404, with the id and nothing else, also if another one is similar."""
    for name in ("PekingU/rtdetr_v2_r101vd", "fake-detct"):
        async with http.get(f"/v1/models/{name}") as response:
            assert await problem(response, 404) == f"Model not found: {name}"


async def test_ids_with_slashes(server, http, data_dir):
    """A model id's slash may be written plainly or as %2F."""
    register(data_dir, {"org/name": "detect", "a/b/c": "ocr"})
    for path, model in (("org/name", "org/name"), ("org%2Fname", "org/name"), ("a/b%2fc", "a/b/c")):
        head = head_of(server, f"/v1/models/{path}", method="GET")
        status, _, body = await exchange(server, head)
        assert status == 200
        assert json.loads(body)["model"] == model


@pytest.mark.parametrize(
    "path", ["%ff%fe", "%ED%A0%80", "%zz", "a%0Ab", "a%00b", "%", "..%2f..%2fx"]
)
async def test_percent_garbage_is_404(server, path):
    """Percent-encoded bytes that are no name are a model that does not exist."""
    status, _, body = await exchange(server, head_of(server, f"/v1/models/{path}", method="GET"))
    assert status == 404
    assert "ot found" in json.loads(body)["detail"]


async def test_pull_of_an_installed_backend(http, data_dir):
    """POST /v1/models/pull of a pip backend that is installed: 202, listed, and 202 again."""
    register(data_dir, {})
    asked = {"model": "fake-pose", "task": "pose"}
    for _ in range(2):
        async with http.post("/v1/models/pull", json=asked) as response:
            assert response.status == 202
            assert await response.json() == {"status": "pulled", "model": "fake-pose"}
    assert (await info(http, "fake-pose"))["task"] == "pose"


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"task": "detect"}, 422, "model: field is required"),
        ({"model": "org/name"}, 422, "task: field is required"),
        ({"model": 1, "task": "detect"}, 422, "model"),
        ({"model": "org/name", "task": None}, 422, "task"),
        ({"model": "", "task": "detect"}, 422, "model"),
        ([], 422, "object"),
        ({"model": "org/name", "task": "zero-shot"}, 400, "Unknown task 'zero-shot'"),
        ({"model": "org/name", "task": "x" * 65}, 400, "Unknown task 'xxxx"),
        ({"model": "org/name", "task": ""}, 400, "Unknown task"),
        ({"model": "fake-pose", "task": "detect"}, 400, "Task mismatch"),
        ({"model": "https://example.org/m", "task": "detect"}, 400, "not a URL or a path"),
        ({"model": "/models/m", "task": "detect"}, 400, "not a URL or a path"),
        ({"model": "./m", "task": "detect"}, 400, "not a URL or a path"),
        ({"model": "../m", "task": "detect"}, 400, "not a URL or a path"),
        ({"model": "~/m", "task": "detect"}, 400, "not a URL or a path"),
        ({"model": "C:\\m", "task": "detect"}, 400, "not a URL or a path"),
        ({"model": "a/b/c", "task": "detect"}, 400, "not a URL or a path"),
        ({"model": "org/na me", "task": "detect"}, 400, "not a URL or a path"),
        ({"model": "--upgrade", "task": "ocr"}, 400, "not a URL or a path"),
        ({"model": "pip; rm -rf", "task": "ocr"}, 400, "not a URL or a path"),
    ],
)
async def test_pulls_that_are_refused(http, asked, status, said):
    """Missing and mistyped fields are 422; unknown tasks, mismatches, URLs and paths are 400."""
    assert said in await refused(http, status, "/v1/models/pull", json=asked)


async def test_a_corrupt_registry_stops_pulls_only(http, data_dir):
    """A registry damaged while serving: the last good one serves on, a pull is 500, none writes."""
    await infer(http, "fake-detect", PNG)
    file = data_dir / "model_registry.json"
    file.write_bytes(b'{"version": 1, "models": {"fake-de')
    async with http.get("/v1/models") as response:
        assert len(await response.json()) == 8
    assert (await infer(http, "fake-ocr", PNG))["text"] == "64x48"
    asked = {"model": "fake-pose", "task": "pose"}
    detail = await refused(http, 500, "/v1/models/pull", json=asked)
    assert "the model registry is corrupt" in detail
    assert file.read_bytes() == b'{"version": 1, "models": {"fake-de'
    register(data_dir, {"fake-pose": "pose"})
    async with http.get("/v1/models") as response:
        assert [each["model"] for each in await response.json()] == ["fake-pose"]


async def test_a_model_whose_plugin_is_gone(http, data_dir):
    """A registered model that nothing installed serves is listed, and 503 says why."""
    register(data_dir, {"left-behind": "detect"})
    assert (await info(http, "left-behind"))["state"] == "unloaded"
    detail = await refused(http, 503, "/v1/models/warmup", json={"model": "left-behind"})
    assert detail == "No installed plugin serves left-behind for the task detect"


async def test_a_missing_package_is_503_with_the_command(http, data_dir):
    """A backend whose package is not installed says what to install."""
    register(data_dir, {"fake-absent": "detect"})
    for path in ("/v1/models/warmup", "/v1/sessions"):
        detail = await refused(http, 503, path, json={"model": "fake-absent"})
        assert "pip install 'a-package-that-nobody-has'" in detail
