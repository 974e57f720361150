"""Models made of several models: what their parts are asked, and with which defaults."""

from __future__ import annotations

import importlib.metadata
import json

import aiohttp
import msgspec
import pytest

from api_answers import infer
from conftest import picture, register
from mataserver import (
    Backend,
    InvalidParams,
    LoadedPart,
    Part,
    VlmResult,
    hookimpl,
    plugins,
    testing,
)
from mataserver.config import Settings
from mataserver.contract.backend import ModelFiles
from mataserver.params.table import Params
from plugin_sources import plugin_fixture  # noqa: F401 - the fixture "plugin"

PNG = picture()


class WholeParams(Params, frozen=True):
    """Of the whole: a parameter that its part has too, and one of its own."""

    confidence: float = 0.25
    pace: int = 1


class Whole:
    """Tells what it would ask its part."""

    def __init__(self, part):
        self._part = part

    def predict(self, images, params):
        """Return the part's parameters as JSON."""
        asked = [
            self._part.params_with(confidence=each.confidence, prompts=["x"]) for each in params
        ]
        return [VlmResult(msgspec.json.encode(each).decode()) for each in asked]


def load(_spec, ctx):
    """Load the whole."""
    return Whole(ctx.parts["detector"])


def named(_files, _settings):
    """Name another model as the part."""
    return {"detector": Part("fake-detect", "detect")}


def itself(files, _settings):
    """Name the model itself, as a detector."""
    return {"detector": Part(files.name, "detect")}


@hookimpl
def backends():
    """Return a backend with another model as its part, and one that looks through any detector."""
    shared = {"task": "vlm", "load": load, "params": WholeParams}
    return [
        Backend(name="whole", source="pip", parts=named, **shared),
        Backend(name="wrapper", source="any", accepts=lambda _: True, parts=itself, **shared),
    ]


WHOLE = importlib.metadata.EntryPoint("whole", __name__, plugins.GROUP)
POINTS = (testing.FAKE, WHOLE)


async def asked(folder, name, models, engine="thread"):
    """Serve ``models`` of the configuration; return what ``name`` asks its part."""
    async with (
        testing.serving(folder, entry_points=POINTS, engine=engine, models=models) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        return json.loads((await infer(http, name, PNG))["text"])


@pytest.mark.parametrize("engine", ["thread", "process"])
async def test_a_part_has_its_own_configured_params(tmp_path, engine):
    """``models[].params`` of the part reach it; what the whole asks for itself goes before them."""
    register(tmp_path, {"fake-detect": "detect", "whole": "vlm"})
    part = {"model": "fake-detect", "params": {"top_k": 3, "seconds": 0.5, "confidence": 0.9}}
    whole = {"model": "whole", "params": {"pace": 2}}
    given = await asked(tmp_path, "whole", [part, whole], engine)
    assert (given["top_k"], given["seconds"]) == (3, 0.5)
    assert given["confidence"] == 0.25


async def test_a_model_that_is_its_own_part(tmp_path):
    """One entry holds the params of the whole and of the part, and a misspelt one is told."""
    register(tmp_path, {"fake-detect": "vlm"})
    params = {"top_k": 3, "pace": 2, "confidence": 0.75}
    given = await asked(tmp_path, "fake-detect", [{"model": "fake-detect", "params": params}])
    assert (given["top_k"], given["confidence"]) == (3, 0.75)
    with pytest.raises(InvalidParams, match=r"models: fake-detect: params.pase"):
        await asked(tmp_path, "fake-detect", [{"model": "fake-detect", "params": {"pase": 2}}])


def test_a_part_is_asked_what_it_can_be_asked():
    """Wishes for what it has not, or of None, do not count; what is missing or wrong is told."""

    class Needy(Params, frozen=True):
        prompts: list[str]
        tiles: int = 4

    part = LoadedPart(testing.FakeModel, Needy, {"tiles": 2})
    assert part.params_with(prompts=["x"], confidence=1, tiles=None) == Needy(["x"], 2)
    assert part.params_with(prompts=["x"], tiles=3) == Needy(["x"], 3)
    with pytest.raises(InvalidParams, match=r"params.prompts: field is required"):
        part.params_with()
    with pytest.raises(InvalidParams, match=r"params.tiles"):
        part.params_with(prompts=["x"], tiles="many")


RINGS = """
from mataserver import Part

def itself(files, settings):
    return {"again": Part(files.name, "classify")}

def ring(files, settings):
    return {"other": Part("ring-b" if files.name == "ring-a" else "ring-a", "classify")}

class Whole(Model):
    def __init__(self, ctx):
        self.parts = sorted(ctx.parts)

    def predict(self, images, params):
        return [ClassifyResult([Classification(",".join(self.parts), 1.0)]) for _ in images]

def load_whole(spec, ctx):
    return Whole(ctx)

@hookimpl
def backends():
    shared = {"load": load_whole, "accepts": accepts, "source": "any"}
    return [
        backend(name="looking", parts=itself, **shared),
        backend(name="ring-a", parts=ring, load=load_whole),
        backend(name="ring-b", parts=ring, load=load_whole),
    ]
"""
PLAIN = """
@hookimpl
def backends():
    return [backend(name="plain", source="any", accepts=accepts)]
"""


@pytest.mark.parametrize("served", [True, False])
def test_a_backend_that_would_be_its_own_part(plugin, tmp_path, served):
    """Another one serves the part; if there is none, the model is not served, and it is told."""
    points = [plugin(RINGS, name="rings"), *([plugin(PLAIN, name="zplain")] if served else [])]
    found = plugins.discover(Settings(), points)
    files = ModelFiles("any/any", "local", None, {"model_type": "any"})
    backend = found.find_backend(files, "classify")
    assert (backend and backend.backend.name) == ("looking" if served else None)


async def test_models_that_are_parts_of_each_other(plugin, mata_client, fake_models):
    """They cannot be served, which is told."""
    models = [{"model": name, "task": "classify"} for name in ("ring-a", "ring-b")]
    client = await mata_client(plugin(RINGS, name="rings"), models=models)
    for model in ("ring-a", "ring-b"):
        answer = await client.post(f"/v1/infer?model={model}", data=PNG)
        detail = f"{model} cannot be served: it would be a part of itself"
        assert (answer.status, await answer.json()) == (503, {"detail": detail})
