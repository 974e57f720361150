"""What the API tells of a model's parameters, against what it takes."""

from __future__ import annotations

from typing import Annotated, Literal

import aiohttp
import pytest
from msgspec import Meta

from api_answers import problem
from mataserver import config, plugins, testing
from mataserver.errors import InvalidParams
from mataserver.params import parsing
from mataserver.params.table import Confidence, MaxTokens, Params
from mataserver.serving import description

NAMES = ("hf", "ocr", "onnx", "opencv", "sam", "track")
OFFERS = plugins.discover(config.Settings(), testing.installed(*NAMES)).provided


class Plain(Params, frozen=True):
    """What to do, in two ways of saying so.

    confidence, top_p: how sure; what it means is told
                       on two lines.
    speed:             how fast

    Nothing of this: belongs to it.
    """

    speed: Annotated[float, Meta(ge=0.0, lt=9.0)]
    confidence: float = 0.25
    top_p: Confidence = 1.0
    mode: Literal["a", "b"] = "a"


class Derived(Plain, frozen=True):
    """``mode``: one of ``a`` and ``b``."""

    max_tokens: MaxTokens = 64
    prompts: tuple[str, ...] = ()
    language: str = "en"


def test_sentences_come_from_docstrings():
    """A line of the struct or of its base tells of a field, else the API's own sentence."""
    found = description.schema_of(Derived, {}, 100)["properties"]
    said = {name: each.get("description") for name, each in found.items()}
    assert said["confidence"] == said["top_p"]
    assert said["confidence"] == "How sure; what it means is told on two lines."
    assert said["speed"] == "How fast."
    assert said["mode"] == "One of `a` and `b`."
    assert said["max_tokens"] == "The longest answer."


def test_bounds_are_those_of_the_api_and_of_the_backend():
    """A field without a range has the API's; defaults, ceilings and what is needed are told."""
    schema = description.schema_of(Derived, {"confidence": 0.7}, 50)
    found = schema["properties"]
    bounds = ("type", "minimum", "maximum", "default")
    assert [found["confidence"][name] for name in bounds] == ["number", 0.0, 1.0, 0.7]
    assert (found["speed"]["exclusiveMaximum"], found["mode"]["enum"]) == (9.0, ["a", "b"])
    assert (found["max_tokens"]["maximum"], found["max_tokens"]["default"]) == (50, 64)
    assert {each["type"] for each in found["prompts"]["anyOf"]} == {"string", "array"}
    assert "default" not in found["prompts"]
    assert schema["required"] == ["speed"]
    assert "required" not in description.schema_of(Derived, {"speed": 1.0}, 50)


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: offer.backend.name)
def test_every_parameter_of_every_backend_is_told(offer):
    """Each has a sentence; its default and its limits are accepted, and beyond them it is 422."""
    kind = offer.backend.params
    for name, schema in description.schema_of(kind, {}, 1_000_000)["properties"].items():
        assert schema["description"].endswith("."), name
        if schema.get("default", ""):
            parsing.parse({name: schema["default"]}, kind)
        for bound, step in (("minimum", -1), ("maximum", 1)):
            if bound in schema:
                parsing.parse({name: schema[bound]}, kind)
                with pytest.raises(InvalidParams):
                    parsing.parse({name: schema[bound] + step}, kind)


async def test_one_model_tells_its_parameters(data_dir):
    """?include=params adds the schema, with the defaults and the ceiling of this server."""
    models = [{"model": "fake-detect", "params": {"confidence": 0.9}}]
    async with (
        testing.serving(data_dir, engine="thread", models=models) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
    ):
        async with http.get("/v1/models/fake-detect") as response:
            plain = await response.json()
        async with http.get("/v1/models/fake-detect?include=params") as response:
            assert response.status == 200
            found = await response.json()
        schema = found.pop("params")
        assert found == plain
        assert schema["properties"]["confidence"]["default"] == 0.9
        assert schema["properties"]["seconds"]["maximum"] == 60.0


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("fake-detect?include=all", 422, "include: must be params"),
        ("fake-detect?include=", 422, "include: must be params"),
        ("absent?include=params", 404, "Model not found"),
        ("left?include=params", 503, "No installed plugin serves left"),
    ],
)
async def test_parameters_that_cannot_be_told(http, data_dir, path, status, said):
    """Anything else that is to be included is 422; what nothing serves is 503."""
    file = data_dir / "model_registry.json"
    file.write_text(file.read_text().replace("fake-ocr", "left"))
    async with http.get(f"/v1/models/{path}") as response:
        assert said in await problem(response, status)
