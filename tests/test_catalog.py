"""Models come and go while the server runs: pulls from the hub, local directories, edits."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import threading

import aiohttp
import pytest

from api_answers import until
from conftest import picture, register
from hub_stand_in import HubStandIn
from mataserver import config, testing
from mataserver import plugins as plugin_host
from mataserver.errors import BadRequest, Conflict, InvalidParams, MataError
from mataserver.library import defaults, removal
from mataserver.library.catalog import Catalog
from mataserver.library.configured import ConfiguredModels
from mataserver.library.plans import CACHE_SECONDS
from mataserver.library.registry import Registry
from mataserver.sources import cache

MODEL = "org/fake-model"
FILES = {
    "config.json": json.dumps({"model_type": "fake"}).encode(),
    "model.safetensors": os.urandom(300_000),
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in hub with one model that the fake plugin serves; HF_* point to it."""
    with HubStandIn() as made:
        made.add(MODEL, FILES)
        for name in [n for n in os.environ if n.startswith(("HF_", "HUGGINGFACE_"))]:
            monkeypatch.delenv(name)
        for name, value in made.environment(tmp_path / "hf").items():
            if name.startswith("HF_"):
                monkeypatch.setenv(name, value)
        yield made


async def post(http, path, **body):
    """POST JSON; return status and decoded body."""
    async with http.post(path, json=body) as response:
        return response.status, await response.json()


async def infer(http, model):
    """Infer on a picture; return status and decoded body."""
    headers = {"Content-Type": "image/png"}
    async with http.post(f"/v1/infer?model={model}", data=picture(), headers=headers) as response:
        return response.status, await response.json()


def connections():
    """Return how many connections the server of this process serves."""
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]
    return names.count("RequestHandler.start")


async def test_pull_registers_and_serves(hub, http, data_dir):
    """A pulled model is listed with its size, served, and written to the registry as "hf"."""
    assert await post(http, "/v1/models/pull", model=MODEL, task="detect") == (
        202,
        {"status": "pulled", "model": MODEL},
    )
    async with http.get(f"/v1/models/{MODEL}") as response:
        info = await response.json()
    assert (info["source"], info["task"], info["size_mb"]) == ("hf", "detect", 0.3)
    status, body = await infer(http, MODEL)
    assert status == 200
    assert body["detections"][0]["bbox"] == [10.0, 8.0, 30.0, 28.0]
    entry = json.loads((data_dir / "model_registry.json").read_text())["models"][MODEL]
    assert (entry["task"], entry["source"]) == ("detect", "hf")


async def test_pull_again_is_no_error_and_another_task_unloads(hub, http):
    """The same pull again is 202; one for another task replaces the entry and unloads the old."""
    for task in ("detect", "detect"):
        assert (await post(http, "/v1/models/pull", model=MODEL, task=task))[0] == 202
    await infer(http, MODEL)
    assert (await post(http, "/v1/models/pull", model=MODEL, task="track"))[0] == 202
    async with http.get(f"/v1/models/{MODEL}") as response:
        info = await response.json()
    assert (info["task"], info["state"]) == ("track", "unloaded")


async def test_two_pulls_of_one_model_conflict(hub, http):
    """While a model is being pulled, a second pull of it gets 409 and the first one ends well."""
    hub.repos[MODEL].hold_at = 100_000
    first = asyncio.create_task(post(http, "/v1/models/pull", model=MODEL, task="detect"))
    assert await asyncio.to_thread(hub.holding.wait, 20)
    status, body = await post(http, "/v1/models/pull", model=MODEL, task="detect")
    assert (status, "in progress" in body["detail"]) == (409, True)
    hub.release()
    assert (await first)[0] == 202


async def test_a_pull_outlives_the_client_that_asked_for_it(hub, http, server):
    """A client that hangs up stops no pull: a second one conflicts until the model serves."""
    hub.repos[MODEL].hold_at = 100_000
    asked = {"model": MODEL, "task": "detect"}
    before = connections()
    async with aiohttp.ClientSession(server.url, headers=server.headers) as leaving:
        pull = asyncio.create_task(leaving.post("/v1/models/pull", json=asked))
        assert await asyncio.to_thread(hub.holding.wait, 20)
        pull.cancel()
    await until(lambda: connections() == before)
    assert (await post(http, "/v1/models/pull", **asked))[0] == 409
    hub.release()

    async def served():
        return (await infer(http, MODEL))[0] == 200

    await until(served, 20)
    assert (await post(http, "/v1/models/pull", **asked))[0] == 202


async def test_pull_failures_are_400_and_register_nothing(hub, http, data_dir):
    """Missing, gated, mismatched and unserved models are 400, each with its reason."""
    hub.add("org/gated", FILES, gated=True)
    hub.add("org/other", {**FILES, "config.json": b'{"model_type": "unheard"}'})
    cases = [
        ("org/missing", "detect", "not found"),
        ("org/gated", "detect", "gated"),
        ("org/other", "detect", "unheard"),
        (MODEL, "ocr", "mismatch"),
        ("fake-detect", "ocr", "mismatch"),
        ("fake-absent", "detect", "pip"),
        ("no-such-backend", "ocr", ""),
        ("fake-detct", "detect", "; did you mean fake-detect?"),
        (MODEL, "paint", "task"),
    ]
    before = (data_dir / "model_registry.json").read_bytes()
    for model, task, word in cases:
        if model == "fake-absent":
            continue  # a real pip install, shown by test_sources_pip
        status, body = await post(http, "/v1/models/pull", model=model, task=task)
        assert status == 400, (model, body)
        assert word.lower() in body["detail"].lower(), (model, body)
    assert (data_dir / "model_registry.json").read_bytes() == before


async def test_pull_with_the_network_down_is_400(hub, http, monkeypatch):
    """A hub that cannot be reached is 400 with that reason."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    status, body = await post(http, "/v1/models/pull", model="org/new", task="detect")
    assert status == 400
    assert "reach" in body["detail"]


async def test_pip_pull_can_be_turned_off(data_dir):
    """With allow_pip_pull off, a backend whose packages are missing is refused with 400."""
    async with (
        testing.serving(data_dir, allow_pip_pull=False) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        status, body = await post(http, "/v1/models/pull", model="fake-absent", task="detect")
    assert status == 400
    assert "turned off" in body["detail"]


async def test_a_model_whose_cache_is_gone_is_hidden(hub, http, tmp_path):
    """An entry whose files left the hub's cache is not listed and is 404."""
    await post(http, "/v1/models/pull", model=MODEL, task="detect")
    (tmp_path / "hf").rename(tmp_path / "elsewhere")
    async with http.get("/v1/models") as response:
        assert MODEL not in [model["model"] for model in await response.json()]
    assert (await infer(http, MODEL))[0] == 404


async def test_an_edit_of_the_registry_is_seen(http, data_dir):
    """A model removed from the file while the server runs is gone, and leaves memory."""
    await infer(http, "fake-detect")
    register(data_dir, {"fake-ocr": "ocr"})
    await asyncio.sleep(CACHE_SECONDS)  # for so long the server believes what it saw last
    assert (await infer(http, "fake-detect"))[0] == 404
    assert (await infer(http, "fake-ocr"))[0] == 200
    loaded = {"fake-detect"}
    for _ in range(100):
        async with http.get("/metrics") as response:
            text = await response.text()
        loaded = {x for x in text.splitlines() if x.startswith("mataserver_models_loaded")}
        if loaded == {"mataserver_models_loaded 1.0"}:
            break
        await asyncio.sleep(0.1)
    assert loaded == {"mataserver_models_loaded 1.0"}


def catalog(tmp_path, **settings):
    """Return a catalogue with the fake plugin on an empty data directory."""
    chosen = config.load(environ={}, directory=tmp_path, data_dir=str(tmp_path), **settings)
    found = plugin_host.discover(chosen, [testing.FAKE])
    return Catalog(chosen, Registry(tmp_path / "model_registry.json"), found)


def model_directory(tmp_path, model_type="fake"):
    """Make a local model directory."""
    directory = tmp_path / "my-model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    return directory


def test_a_local_directory_is_registered_under_its_name(tmp_path):
    """A directory that a backend serves is registered as "local"; twice is no error."""
    made = catalog(tmp_path)
    directory = model_directory(tmp_path)
    for _ in range(2):
        assert made.add_local(directory, "detect").name == "my-model"
    assert made.plan("my-model").spec.path == directory
    assert made.add_local(directory, "detect", "other").name == "other"


def test_local_directories_that_cannot_be_served_are_refused(tmp_path):
    """A missing path, an unserved type and a name in use are refused; nothing is registered."""
    made = catalog(tmp_path)
    with pytest.raises(BadRequest, match="no such"):
        made.add_local(tmp_path / "nowhere", "detect")
    with pytest.raises(BadRequest, match="unheard"):
        made.add_local(model_directory(tmp_path, "unheard"), "detect", "x")
    register(tmp_path, {"taken": "ocr"})
    (tmp_path / "my-model" / "config.json").write_text('{"model_type": "fake"}')
    with pytest.raises(Conflict, match="in use"):
        made.add_local(tmp_path / "my-model", "detect", "taken")
    assert list(made.entries()) == ["taken"]


def test_configured_models_are_registered_when_they_are_here(tmp_path):
    """What is here is registered; what is not says how to pull it."""
    directory = model_directory(tmp_path)
    made = catalog(
        tmp_path,
        models=[
            {"model": "fake-ocr", "task": "ocr"},
            {"model": "mine", "task": "detect", "path": str(directory)},
        ],
    )
    ConfiguredModels(made).add()
    assert set(made.entries()) == {"fake-ocr", "mine"}
    absent = catalog(tmp_path, models=[{"model": "org/absent", "task": "detect"}])
    with pytest.raises(MataError, match="mataserver pull org/absent --task detect"):
        ConfiguredModels(absent).add()


def test_a_configured_path_that_was_moved_is_registered_again(tmp_path):
    """Another path for the same name replaces the entry; one that is wrong is told by name."""
    places = [tmp_path / "old", tmp_path / "new"]
    for place in places:
        place.mkdir()
        model_directory(place)
        model = {"model": "mine", "task": "detect", "path": str(place / "my-model")}
        made = catalog(tmp_path, models=[model])
        ConfiguredModels(made).add()
        assert made.plan("mine").spec.path == place / "my-model"
    gone = catalog(tmp_path, models=[{**model, "path": str(tmp_path / "gone")}])
    with pytest.raises(MataError, match=r"^models: mine: no such file or directory$"):
        ConfiguredModels(gone).add()


def test_params_of_a_configured_model_are_checked(tmp_path):
    """A misspelt parameter in models[].params stops the start, named with its model."""
    register(tmp_path, {"fake-detect": "detect"})
    made = catalog(tmp_path, models=[{"model": "fake-detect", "params": {"confidense": 0.5}}])
    with pytest.raises(InvalidParams, match=r"^models: fake-detect: params.confidense: unknown"):
        ConfiguredModels(made).check()


def test_defaults_are_registered_once(tmp_path):
    """A fresh directory gets the installed defaults, and none again; with the setting, none."""
    made = with_plugins(tmp_path)
    assert set(made.add_defaults()) == {"rapidocr", "opencv-faces", "opencv-qr"}
    assert made.add_defaults() == []
    assert catalog(tmp_path / "off", register_defaults=False).add_defaults() == []


def test_a_model_that_was_pulled_first_keeps_no_default_away(tmp_path):
    """On a data directory that holds a model already the defaults are registered beside it."""
    register(tmp_path, {"fake-ocr": "ocr"})
    made = with_plugins(tmp_path)
    made.add_defaults()
    assert set(made.entries()) == {"fake-ocr", "rapidocr", "opencv-faces", "opencv-qr"}


def test_a_default_that_was_removed_does_not_come_back(tmp_path):
    """Each default is registered once: removing it is for good, whatever becomes of the others."""
    with_plugins(tmp_path).add_defaults()
    Registry(tmp_path / "model_registry.json").remove("rapidocr")
    made = with_plugins(tmp_path)
    assert made.add_defaults() == []
    assert set(made.entries()) == {"opencv-faces", "opencv-qr"}


def test_defaults_of_a_plugin_that_came_later_are_registered(tmp_path):
    """A plugin that is installed after the first start brings its defaults at the next one."""
    assert with_plugins(tmp_path, "opencv").add_defaults() == ["opencv-faces", "opencv-qr"]
    assert with_plugins(tmp_path, "opencv", "ocr").add_defaults() == ["rapidocr"]


def test_a_default_that_somebody_registered_otherwise_stays(tmp_path):
    """What stands under a default's name already is left as it is."""
    register(tmp_path, {"rapidocr": "vlm"})
    made = with_plugins(tmp_path)
    made.add_defaults()
    assert made.entries()["rapidocr"].task == "vlm"


async def test_the_loop_runs_while_the_registry_is_locked(tmp_path):
    """Defaults of a plugin that came later wait for another program's lock in a thread."""
    made, freed_by = with_plugins(tmp_path, "opencv"), []
    made.plugins.generation += 1
    with (tmp_path / "model_registry.json.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def free(who):
            freed_by.append(who)
            fcntl.flock(lock, fcntl.LOCK_UN)

        rescue = threading.Timer(10, free, ["the timer, as the loop stood still"])
        rescue.start()
        refreshing = asyncio.create_task(made.refresh())
        await asyncio.sleep(0.3)
        assert not refreshing.done()
        free("the loop")
        await refreshing
        rescue.cancel()
    assert freed_by == ["the loop"]
    assert set(made.entries()) == {"opencv-faces", "opencv-qr"}


def test_a_default_that_is_removed_after_it_was_registered_by_hand_stays_away(tmp_path):
    """A model of a package that is removed by the command is not registered as a default later."""
    register(tmp_path, {"opencv-qr": "detect"})
    made = with_plugins(tmp_path, "opencv")
    removal.remove("opencv-qr", made.registry, lambda: made.plugins)
    assert made.add_defaults() == ["opencv-faces"]


def test_a_removal_is_recorded_of_defaults_alone_and_once(tmp_path):
    """A model that is no default leaves no record, which would keep it away once it becomes one."""
    made = with_plugins(tmp_path, "opencv")
    made.add_defaults()
    registered = (tmp_path / defaults.FILE).read_text()
    for _ in range(2):
        register(tmp_path, {"fake-detect": "detect", "opencv-qr": "detect"})
        for name in ("fake-detect", "opencv-qr"):
            assert removal.remove(name, made.registry, lambda: made.plugins) is not None
    assert (tmp_path / defaults.FILE).read_text() == registered


def with_plugins(data_dir, *names):
    """Return a catalogue on ``data_dir`` with the installed plugins of these names, or with all."""
    chosen = config.load(environ={}, directory=data_dir, data_dir=str(data_dir))
    points = testing.installed(*names) if names else None
    found = plugin_host.discover(chosen, points)
    return Catalog(chosen, Registry(data_dir / "model_registry.json"), found)


def test_cached_is_none_for_what_was_never_pulled(hub):
    """The cache knows only what is there."""
    assert cache.cached("org/never") is None
