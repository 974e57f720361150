"""Models that are registered anew while they are in use: by a service, and as parts of others."""

from __future__ import annotations

import asyncio
import importlib.metadata
import shutil
import time

import aiohttp
import pytest

from api_answers import asking, problem, until
from conftest import picture, register
from mataserver import Backend, Part, VlmResult, hookimpl, plugins, testing
from mataserver.library.plans import CACHE_SECONDS
from mataserver.library.registry import Entry, Registry

PNG = picture()
WEIGHTS = "weights"
"""A file of a model; where it is there, its text is what the model says."""


class Placed:
    """Tells the directory that it, or its part, was loaded from."""

    def __init__(self, place):
        self.place = place

    def predict(self, images, _params):
        """Return the directory's name."""
        return [VlmResult(self.place) for _ in images]


def load(spec, ctx):
    """Load a model of a directory, or one whose part is."""
    part = ctx.parts.get("placed")
    if part is not None:
        return Placed(part.model.place)
    weights = spec.path / WEIGHTS
    return Placed(weights.read_text() if weights.is_file() else spec.path.name)


class Holder:
    """A service that does nothing by itself: the tests take its context."""

    def __init__(self, ctx):
        self.ctx = ctx

    def routes(self):
        """Return none."""
        return []

    async def __aenter__(self):
        """Start."""

    async def __aexit__(self, *exc):
        """Stop."""


@hookimpl
def backends():
    """Return a backend for any directory, and one of which the model "placed" is a part."""
    shared = {"task": "vlm", "load": load}
    return [
        Backend(name="place", source="local", accepts=lambda _: True, **shared),
        Backend(
            name="whole",
            source="pip",
            parts=lambda _files, _settings: {"placed": Part("placed", "vlm")},
            **shared,
        ),
    ]


@hookimpl
def service(ctx):
    """Return the service."""
    return Holder(ctx)


POINT = importlib.metadata.EntryPoint("places", __name__, plugins.GROUP)


class Rig:
    """A server, its data directory, and what is asked of it."""

    def __init__(self, folder, served, http):
        self.folder = folder
        self.registry = Registry(folder / "model_registry.json")
        holder = served.service("places")
        self.models = holder.ctx.models
        self.http = http

    def place(self, name):
        """Register the model "placed" with the directory ``name``, as another process would."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        self.registry.add(
            "placed", Entry(task="vlm", source="local", pulled_at=time.time(), path=str(path))
        )

    async def says(self, model, place):
        """Whether a model answers that it was loaded from ``place``."""
        async with self.http.post("/v1/infer", json=asking(model, PNG)) as response:
            assert response.status == 200, await response.text()
            return (await response.json())["text"] == place

    async def loads(self, model):
        """Return how often a model was loaded."""
        async with self.http.get("/metrics") as response:
            told = (await response.text()).splitlines()
        name = f'mataserver_model_loads_total{{model="{model}",outcome="ok"}} '
        return sum(float(line.removeprefix(name)) for line in told if line.startswith(name))


@pytest.fixture
async def rig(tmp_path):
    """A server with the model "whole", and "placed" registered with the directory "here"."""
    register(tmp_path, {"whole": "vlm"})
    async with (
        testing.serving(tmp_path, entry_points=[POINT], engine="thread") as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        made = Rig(tmp_path, served, http)
        made.place("here")
        yield made


async def test_a_service_follows_a_model_that_is_registered_anew(rig):
    """Who holds a model and who asks for it get the same new worker, loaded once."""
    async with rig.models.acquire("placed") as held:
        assert await held.predict(PNG) == VlmResult("here")
        rig.place("there")
        await until(lambda: rig.says("placed", "there"))
        for _ in range(4):
            assert await held.predict(PNG) == VlmResult("there")
            assert await rig.says("placed", "there")
    assert await rig.loads("placed") == 2


async def test_a_part_that_moved_is_loaded_from_its_new_place(rig):
    """A composed model is loaded anew when a part of it is registered with other files."""
    assert await rig.says("whole", "here")
    rig.place("there")
    await until(lambda: rig.says("whole", "there"))
    assert await rig.loads("whole") == 2


@pytest.mark.parametrize("model", ["placed", "whole"])
async def test_other_files_at_the_same_place_are_loaded_when_they_are_registered(rig, model):
    """Weights that a training wrote over the old ones are served from the registration on.

    Not before: half of them may be there. The same files registered again are not loaded again.
    """
    weights = rig.folder / "here" / WEIGHTS
    weights.write_text("old")
    rig.place("here")
    await until(lambda: rig.says(model, "old"))
    loads = await rig.loads(model)
    weights.write_text("new")
    await asyncio.sleep(2 * CACHE_SECONDS)
    assert await rig.says(model, "old")
    rig.place("here")
    await until(lambda: rig.says(model, "new"))
    rig.place("here")
    await asyncio.sleep(2 * CACHE_SECONDS)
    assert await rig.says(model, "new")
    assert await rig.loads(model) == loads + 1


@pytest.mark.parametrize("model", ["placed", "whole"])
async def test_files_that_changed_unregistered_are_told_when_they_are_loaded(rig, model, caplog):
    """A worker that is started loads what is there: who runs the server learns that it differs."""
    (rig.folder / "here" / WEIGHTS).write_text("old")
    rig.place("here")
    await until(lambda: rig.says(model, "old"))
    (rig.folder / "here" / WEIGHTS).write_text("new")
    for registered, told in ((False, 1), (True, 0)):
        caplog.clear()
        if registered:
            rig.place("here")
            await asyncio.sleep(2 * CACHE_SECONDS)
        await rig.models.unload(model)
        assert await rig.says(model, "new")
        lines = [
            each.message
            for each in caplog.records
            if "changed since it was registered" in each.message
        ]
        assert len(lines) == told, lines


@pytest.mark.parametrize("how", ["unregistered", "deleted"])
async def test_without_its_part_a_model_is_not_served(rig, how):
    """A part that is gone makes the whole 503 with what to do; when it comes back it is served."""
    assert await rig.says("whole", "here")
    if how == "unregistered":
        rig.registry.remove("placed")
    else:
        shutil.rmtree(rig.folder / "here")

    async def refused():
        async with rig.http.post("/v1/infer", json=asking("whole", PNG)) as response:
            return response.status != 200 and await problem(response, 503)

    await until(refused)
    assert await refused() == (
        "whole needs a model that is not here: mataserver pull placed --task vlm"
    )
    rig.place("here")

    async def back():
        return await refused() is False

    await until(back)
