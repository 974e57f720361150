"""A task that a plugin brings: named, checked, answered, streamed and drawn as any other."""

from __future__ import annotations

import math

import aiohttp
import msgspec
import numpy as np
import pytest

from conftest import picture
from mataserver import Detection, draw
from mataserver.config import ModelSettings, Settings
from mataserver.engines.item_validation import InvalidResultError
from mataserver.engines.result_validation import validate_custom_result
from mataserver.results import is_task
from mataserver.testing import installed, serving
from mataserver_client import AsyncClient, MataError
from service_plugins import plugin

__all__ = ["plugin"]

PNG = picture()
BOX = (1.0, 2.0, 3.0, 4.0)
SIZE = (64, 48)
COUNTER = '''
from typing import Annotated, Any
from msgspec import Meta
from mataserver import Detection, Params

class Service(Base):
    def routes(self):
        return [web.post("/v1/counted", self.counted)]

    async def counted(self, request):
        result = await self.ctx.models.get("counter").predict(await request.read())
        return web.json_response({"kind": type(result).__name__, "count": result.count})

class Asked(Params, frozen=True, kw_only=True):
    """count: how many it says."""
    count: int = 3

class Counted(Struct, frozen=True):
    count: Annotated[int, Meta(ge=0)]
    mean: Any = None
    detections: list[Detection] = []

class Counter:
    def predict(self, images, params):
        return [self.answer(*pair) for pair in zip(images, params)]

    def answer(self, image, params):
        if params.count == 400:
            return {"count": 400}
        if params.count == 500:
            return Counted(5, mean=float("nan"))
        found = [Detection("all", 1.0, (0, 0, image.shape[1], image.shape[0]))]
        return Counted(params.count, mean=image.mean(), detections=found)

def load(spec, ctx):
    return Counter()

@hookimpl
def backends():
    return [
        Backend(name="counter", task="counting.all", source="pip", load=load, params=Asked,
                result=Counted)
    ]
'''
MODELS = [{"model": "counter", "task": "counting.all"}]


class Kept(msgspec.Struct):
    """A result of a plugin."""

    count: int = 0
    more: object = None
    detections: list[Detection] = []


@pytest.fixture(params=["thread", "process"])
async def served(request, tmp_path, plugin):
    """A server with the plugin."""
    points = [plugin(COUNTER, "counting"), *installed("oip")]
    async with serving(
        tmp_path, entry_points=points, engine=request.param, models=MODELS
    ) as server:
        yield server


@pytest.fixture
async def client(served):
    """A client of it."""
    async with AsyncClient(served.url, served.key) as client:
        yield client


async def test_it_is_asked_by_every_way(served, client):
    """Single requests, sessions, services and the Open Inference Protocol tell the same."""
    answer = await client.infer("counter", PNG, count=7)
    assert (answer.task, answer.output["count"]) == ("counting.all", 7)
    assert answer.output["detections"][0]["bbox"] == [0.0, 0.0, *map(float, SIZE)]
    assert isinstance(answer.output["mean"], float)
    streamed = [each async for each in client.stream("counter", iter([PNG]), count=2)]
    assert [each.output["count"] for each in streamed] == [2]
    async with aiohttp.ClientSession(served.url, headers=served.headers) as http:
        counted = await (await http.post("/v1/counted", data=PNG)).json()
        assert counted == {"kind": "Counted", "count": 3}
        told = await (await http.get("/v2/models/counter")).json()
        assert [each["name"] for each in told["outputs"]] == ["result"]
        document = await (await http.get("/openapi.json")).json()
    responses = document["paths"]["/v1/infer"]["post"]["responses"]
    _, own = responses["200"]["content"]["application/json"]["schema"]["anyOf"]
    assert own["allOf"][1]["properties"]["task"] == {"const": "counting.all"}
    assert document["components"]["schemas"]["Counted"]["required"] == ["count"]


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (-1, "counter: Counted cannot be sent: Expected `int` >= 0 - at `$.count`"),
        (400, "counter: expected a Counted, got dict"),
        (500, "counter: Counted.mean holds a float that is not a JSON value"),
    ],
)
async def test_a_broken_promise_is_500(client, count, said):
    """What its own struct does not allow reaches nobody."""
    with pytest.raises(MataError) as caught:
        await client.infer("counter", PNG, count=count)
    assert caught.value.status == 500
    assert said in caught.value.detail


async def test_its_name_is_looked_up_when_plugins_are_known(client):
    """A pull tells the tasks that there are; the settings take any that may be a plugin's."""
    with pytest.raises(MataError, match=r"'counting.al'.*did you mean counting\.all\?"):
        await client.pull("counter", "counting.al")
    assert Settings(models=[ModelSettings(model="counter", task="counting.all")])


@pytest.mark.parametrize("name", ["smell", ".all", "a.b.c", "A.b", "a b.c", "", "a." + "b" * 70])
def test_other_names_are_none(name):
    """A task is one of the API, or a plugin's name, a dot and a name."""
    assert not is_task(name)


@pytest.mark.parametrize(
    "more",
    [
        math.inf,
        {"deep": [math.nan]},
        np.zeros(2),
        np.array(1j)[()],
        object(),
        {"a": 2**70},
    ],
    ids=["infinity", "not a number", "array", "complex", "object", "long"],
)
def test_what_cannot_be_sent_is_unsound(more):
    """Whatever JSON and MessagePack do not have alike."""
    with pytest.raises(InvalidResultError, match="Kept"):
        validate_custom_result(Kept(more=more), Kept)


def test_numbers_of_numpy_and_boxes_are_put_right():
    """As in any result: a box is clipped by a pixel, and whole numbers become floats."""
    given = Kept(np.int64(4), [np.float32(0.5)], [Detection("a", np.float64(1), (0, 0, 9, 8.5))])
    found = validate_custom_result(given, Kept, (8, 9))
    assert found == Kept(4, [0.5], [Detection("a", 1.0, (0.0, 0.0, 9.0, 8.0))])
    with pytest.raises(InvalidResultError, match=r"detections\[0\].bbox is"):
        validate_custom_result(Kept(detections=[Detection("a", 1.0, (0, 0, 99, 8))]), Kept, (8, 9))


def test_keys_that_are_numbers_and_boxes_in_a_tuple():
    """Keys are texts on their way and numbers again; a tuple's boxes are held to the same."""

    class Tally(msgspec.Struct):
        by_class: dict[int, float]
        detections: tuple[Detection, ...] = ()

    box = Detection("a", 1.0, (0, 0, 9, 8.5))
    found = validate_custom_result(Tally({1: 2.0}, (box,)), Tally, (8, 9))
    assert found == Tally({1: 2.0}, (Detection("a", 1.0, (0.0, 0.0, 9.0, 8.0)),))
    with pytest.raises(InvalidResultError, match=r"detections\[0\].confidence"):
        validate_custom_result(Tally({}, (Detection("a", 7.0, BOX),)), Tally, (8, 9))


@pytest.mark.parametrize(
    ("output", "drawn"),
    [({"detections": [{"label": "a", "confidence": 1, "bbox": [2, 2, 20, 20]}]}, True),
     ({"text": "seen"}, True), ({"text": 5}, False), ({"count": 5}, False), ([1], False)],
)  # fmt: skip
def test_what_is_named_as_in_the_api_is_drawn(output, drawn):
    """Boxes and a text; a picture with nothing else stays as it is."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    answer = {"schema_version": "mata.v1", "task": "counting.all", "model": "m", "timestamp": 0.0}
    assert draw(pixels, {**answer, "output": output}).any() == drawn
