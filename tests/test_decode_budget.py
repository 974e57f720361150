"""An image that keeps a decoder busy is refused, and costs nobody else anything but time."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time

import aiohttp
import pytest

from conftest import picture
from mataserver import (
    Backend,
    Classification,
    ClassifyResult,
    VlmResult,
    hookimpl,
    plugins,
    testing,
)
from mataserver_client import AsyncClient, FrameError
from slow_pictures import slow_jpeg

pytestmark = pytest.mark.long

BUDGET = 0.25
PLAIN = picture(form="JPEG")


class Patient:
    """Takes its time with every batch."""

    def __init__(self, seconds):
        self._seconds = seconds

    def predict(self, images, _params):
        """Return the width of each image."""
        time.sleep(self._seconds)
        return [ClassifyResult([Classification(str(image.shape[1]), 1.0)]) for image in images]


class Writer:
    """Writes about an image."""

    def predict(self, images, _params):
        """Return the width of each image."""
        return [VlmResult(str(image.shape[1])) for image in images]

    def stream(self, image, _params):
        """Yield two pieces, then the answer."""
        yield "about "
        yield str(image.shape[1])
        yield VlmResult(f"about {image.shape[1]}")


def load(spec, _context):
    """Load the model."""
    if spec.task == "vlm":
        return Writer()
    return Patient(0.0 if spec.name == "quick" else 0.05)


@hookimpl
def backends():
    """Return the backends: this module is a plugin."""
    kinds = (("quick", "classify"), ("patient", "classify"), ("writer", "vlm"))
    return [
        Backend(name=name, task=task, source="pip", load=load, max_batch=8) for name, task in kinds
    ]


PLUGIN = importlib.metadata.EntryPoint("patient", __name__, plugins.GROUP)
MODELS = [
    {"model": "quick", "task": "classify"},
    {"model": "patient", "task": "classify"},
    {"model": "writer", "task": "vlm"},
]


@pytest.fixture(params=["process", "thread"])
async def http(request, data_dir):
    """A session with a server whose decoders have a quarter of a second."""
    options = {"entry_points": [PLUGIN], "models": MODELS, "engine": request.param}
    async with (
        testing.serving(data_dir, decode_timeout=BUDGET, **options) as served,
        aiohttp.ClientSession(served.url, headers=served.headers) as session,
    ):
        yield session


async def frames():
    """Yield a slow picture among others."""
    for image in (PLAIN, slow_jpeg(), PLAIN):
        yield image


async def ask(http, image, model="patient", **headers):
    """Return status and body of one inference."""
    headers = {"Content-Type": "image/jpeg", **headers}
    async with http.post(f"/v1/infer?model={model}", data=image, headers=headers) as answer:
        return answer.status, await answer.text()


@pytest.mark.parametrize("model", ["quick", "patient"])
async def test_neighbours_of_a_slow_image_are_answered(http, model):
    """Five times in a row: the slow image is 400, a dozen others beside it are 200."""
    for _ in range(5):
        alike = [ask(http, PLAIN, model) for _ in range(6)]
        later = [ask(http, PLAIN, model) for _ in range(6)]
        slow = ask(http, slow_jpeg(), model)
        answers = await asyncio.gather(*alike[:3], slow, *alike[3:], *later)
        assert [status for status, _ in answers].count(200) == 12, answers
        assert answers[3][0] == 400
        assert "takes too long to decode: over 0.25 s" in answers[3][1]
    assert (await ask(http, PLAIN, model))[0] == 200


async def test_a_slow_image_is_not_counted_against_the_model(http):
    """After many of them there is no back-off, no error, and no death in the metrics."""
    for _ in range(4):
        assert (await ask(http, slow_jpeg()))[0] == 400
    status, body = await ask(http, PLAIN)
    assert (status, '"64"' in body) == (200, True)
    async with http.get("/metrics") as answer:
        deaths = [line for line in (await answer.text()).splitlines() if "deaths_total{" in line]
    assert all(line.endswith(" 0.0") for line in deaths), deaths
    async with http.get("/v1/models/patient") as answer:
        assert (await answer.json()).get("error") is None


async def test_a_text_that_has_not_begun_moves_on(http):
    """A stream of text whose worker is replaced begins anew; the slow image's own is 400."""
    events = {"Accept": "text/event-stream"}
    slow, *texts = await asyncio.gather(
        ask(http, slow_jpeg(), "writer", **events),
        *(ask(http, PLAIN, "writer", **events) for _ in range(3)),
    )
    assert slow[0] == 400
    for status, text in texts:
        assert status == 200
        assert "about 64" in text


async def test_a_slow_frame_of_a_stream_costs_that_frame(http):
    """The frame has an error, the stream stays open, the next frame has its result."""
    key = http.headers["Authorization"].removeprefix("Bearer ")
    async with AsyncClient(str(http._base_url), api_key=key) as client:
        results = [each async for each in client.stream("patient", frames())]
    assert [isinstance(each, FrameError) for each in results] == [False, True, False]
    assert "takes too long to decode" in results[1].detail
