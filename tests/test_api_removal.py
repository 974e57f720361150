"""Removal of models over REST: what it unloads and forgets, and what may not be removed."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from api_answers import infer, refused, until
from mataserver import testing
from model_calls import PNG, info, post, removed


def registered(data_dir):
    """Return the names in the registry file."""
    return set(json.loads((data_dir / "model_registry.json").read_text())["models"])


async def test_removing_a_model_unloads_and_forgets_it(http, data_dir):
    """DELETE takes a model out of the registry and of memory; it can be pulled again."""
    await infer(http, "fake-detect", PNG)
    assert await removed(http) == {"status": "removed", "model": "fake-detect"}
    assert "fake-detect" not in registered(data_dir)
    asked = {"model": "fake-detect", "image": "AAAA"}
    assert "not found" in await refused(http, 404, "/v1/infer", json=asked)
    assert "not found" in await removed(http, status=404)
    async with http.get("/metrics") as response:
        line = 'mataserver_model_unloads_total{model="fake-detect",reason="removed"} 1.0'
        assert line in await response.text()
    pull = {"model": "fake-detect", "task": "detect"}
    async with http.post("/v1/models/pull", json=pull) as response:
        assert response.status == 202
    assert (await infer(http, "fake-detect", PNG))["detections"]


async def test_removing_waits_for_an_inference(http):
    """An inference that runs when its model is removed is answered first."""
    await post(http, "warmup")
    running = asyncio.create_task(infer(http, "fake-detect", PNG, seconds=0.2))

    async def active():
        return (await info(http))["state"] == "active"

    await until(active)
    await removed(http)
    assert running.done()
    assert (await running)["detections"]


@pytest.mark.parametrize("plugins", [(), ("ocr",)])
async def test_removing_ids_with_slashes_and_what_is_not_here(data_dir, plugins):
    """A hub id is removed by its name, also when its files are gone; a default stays away."""
    path = data_dir / "model_registry.json"
    entries = json.loads(path.read_text())
    entries["models"]["org/gone"] = {"task": "detect", "source": "hf", "pulled_at": 1.0}
    entries["models"]["rapidocr"] = {"task": "ocr", "source": "pip", "pulled_at": 1.0}
    path.write_text(json.dumps(entries))
    points = [testing.FAKE, *testing.installed(*plugins)]
    async with (
        testing.serving(data_dir, entry_points=points, engine="thread") as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        for name in ("org/gone", "rapidocr"):
            assert await removed(http, name) == {"status": "removed", "model": name}
            assert name not in registered(data_dir)
    recorded = data_dir / "registered_defaults"  # of a plugin that is not here nothing is known
    assert recorded.exists() == bool(plugins)
    assert not plugins or recorded.read_text().split() == ["rapidocr"]


async def test_a_held_model_is_not_removed(http, data_dir):
    """While a session holds a model DELETE is 409; when it has ended the model goes."""
    async with http.post("/v1/sessions", json={"model": "fake-detect"}) as response:
        session = (await response.json())["session_id"]
    assert "is held: sessions" in await removed(http, status=409)
    assert "fake-detect" in registered(data_dir)
    async with http.delete(f"/v1/sessions/{session}") as response:
        assert response.status == 204
    await removed(http)


async def test_a_configured_model_is_not_removed(data_dir):
    """What the configuration names would come back: 409 says so."""
    models = [{"model": "fake-detect"}]
    async with (
        testing.serving(data_dir, engine="thread", models=models) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        assert "a model of the configuration" in await removed(http, status=409)
        assert "fake-detect" in registered(data_dir)
        await removed(http, "fake-ocr")


async def test_a_registry_that_cannot_be_written_keeps_its_models(http, data_dir):
    """Removing from a damaged registry is 500, and the model is served as before."""
    await infer(http, "fake-detect", PNG)
    file = data_dir / "model_registry.json"
    file.write_bytes(b"{")
    assert "the model registry is corrupt" in await removed(http, status=500)
    assert file.read_bytes() == b"{"
    assert (await infer(http, "fake-detect", PNG))["detections"]
