"""A result that violates the API's contract reaches no client, by any protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import math

import aiohttp
import pytest

from conftest import PROTOCOLS, picture, register
from mataserver import MataError
from mataserver.engines.worker_errors import Failure
from mataserver.testing import installed, serving
from service_plugins import plugin

__all__ = ["plugin"]

PNG = picture()
DATA = base64.b64encode(PNG).decode()
TASKS = ("detect", "track", "classify", "vlm")
SAID = "The model returned an invalid result: liar-{}: {}[0].confidence is 9, not within 0 to 1"
LIAR = """
from mataserver import Detection, DetectResult, Params, VlmResult

class Asked(Params, frozen=True, kw_only=True):
    confidence: float = 0.5
    use_softmax: bool = True

class Service(Base):
    pass

class Liar:
    def __init__(self, task):
        self.task = task

    def result(self, share):
        found = [Detection("cat", 9.0 * share, (0, 0, 64, 49))]
        if self.task == "classify":
            return ClassifyResult([Classification("cat", 9.0 * share)])
        return VlmResult("cat", detections=found) if self.task == "vlm" else DetectResult(found)

    def predict(self, images, params):
        return [self.result(each.confidence) for each in params]

    def stream(self, image, params):
        yield "cat"
        if not params.use_softmax:
            yield 5
            yield "dog"
        yield self.result(params.confidence)

    def tell(self, share):
        return (self.result(share), "told")

    def tells(self, *shares):
        yield from map(self.result, shares)

class Tracker(Liar):
    def session(self, params):
        return Track(self, params)

class Track:
    def __init__(self, model, params):
        self.step = lambda image: model.result(params.confidence)

def load(spec, ctx):
    return (Tracker if spec.task == "track" else Liar)(spec.task)

@hookimpl
def backends():
    return [
        Backend(name="liar-" + task, task=task, source="pip", load=load, params=Asked, max_batch=4)
        for task in ("detect", "track", "classify", "vlm")
    ]
"""


@pytest.fixture(params=["thread", "process"])
async def served(request, tmp_path, plugin):
    """A server of models whose confidences are nine times what they were asked for."""
    register(tmp_path, {f"liar-{task}": task for task in TASKS})
    points = [plugin(LIAR, "liar"), *installed(*PROTOCOLS)]
    async with serving(tmp_path, entry_points=points, engine=request.param) as running:
        yield running


@pytest.fixture
async def http(served):
    """A client of it."""
    async with aiohttp.ClientSession(served.url, headers=served.headers) as session:
        yield session


async def ask(http, task, **params):
    """Ask over REST; return status and answer."""
    asked = {"model": f"liar-{task}", "image": DATA, "params": params}
    async with http.post("/v1/infer", json=asked) as response:
        return response.status, await response.json()


async def test_over_rest_it_is_500_that_names_model_and_field(http):
    """Each task says which field it was; scores that were asked for raw are served."""
    for task, field in (
        ("detect", "detections"),
        ("track", "detections"),
        ("classify", "classifications"),
        ("vlm", "detections"),
    ):
        assert await ask(http, task, confidence=1.0) == (500, {"detail": SAID.format(task, field)})
        assert (await ask(http, task, confidence=0.1))[0] == 200
    status, body = await ask(http, "classify", confidence=1.0, use_softmax=False)
    assert (status, body["classifications"][0]["confidence"]) == (200, 9.0)


async def test_whole_numbers_are_floats_and_a_pixel_is_clipped(http):
    """The box of integers that ends a pixel below the image is one of floats that ends with it."""
    headers = {"Content-Type": "image/png"}
    query = {"model": "liar-detect", "confidence": "0.1"}
    async with http.post("/v1/infer", params=query, data=PNG, headers=headers) as response:
        assert '"bbox":[0.0,0.0,64.0,48.0]' in (await response.text()).replace(" ", "")


async def test_in_a_batch_it_fails_its_own_request(http):
    """The others of the batch are answered."""
    shares = [0.1, 1.0, 0.1, 1.0, 0.1, 0.1]
    answers = await asyncio.gather(*(ask(http, "detect", confidence=each) for each in shares))
    assert [status for status, _ in answers] == [200, 500, 200, 500, 200, 200]


async def test_in_a_session_it_is_the_error_of_its_frame(http):
    """Also of a model that keeps state from frame to frame."""
    asked = {"model": "liar-track", "params": {"confidence": 1.0}}
    async with http.post("/v1/sessions", json=asked) as response:
        session = (await response.json())["session_id"]
    async with http.ws_connect(f"/v1/stream/{session}") as socket:
        await socket.send_bytes(PNG)
        assert SAID.format("track", "detections") in await socket.receive_str(timeout=10)


async def test_as_events_it_ends_them_with_an_error(http):
    """The pieces of text were sent, the result is not."""
    headers = {"Content-Type": "image/png", "Accept": "text/event-stream"}
    query = {"model": "liar-vlm", "confidence": "1.0"}
    async with http.post("/v1/infer", params=query, data=PNG, headers=headers) as response:
        text = await response.text()
    assert SAID.format("vlm", "detections") in text
    assert "event: result" not in text


async def test_what_is_neither_text_nor_the_last_ends_them_too(http):
    """Nothing that a model yields is passed over in silence."""
    headers = {"Accept": "text/event-stream"}
    params = {"confidence": 0.1, "use_softmax": False}
    asked = {"model": "liar-vlm", "image": DATA, "params": params}
    async with http.post("/v1/infer", json=asked, headers=headers) as response:
        text = await response.text()
    assert "liar-vlm: its stream continues after a int" in text
    assert "event: result" not in text


async def test_over_the_dialects_it_is_an_error(http):
    """The Open Inference Protocol and OpenAI's chat answer 500 in their own forms."""
    parameters = {"confidence": 1.0}
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [DATA]}
    asked = {"inputs": [image], "parameters": parameters}
    async with http.post("/v2/models/liar-detect/infer", json=asked) as response:
        assert (response.status, await response.json()) == (
            500,
            {"error": SAID.format("detect", "detections")},
        )


@pytest.mark.parametrize("stream", [False, True])
async def test_over_chat_it_is_an_error(tmp_path, plugin, stream):
    """Whole or in pieces: the sentence is told where OpenAI's clients look for it."""
    register(tmp_path, {"liar-vlm": "vlm"})
    own = [{"model": "liar-vlm", "params": {"confidence": 1.0}}]
    points = [plugin(LIAR, "liar"), *installed(*PROTOCOLS)]
    url = {"url": f"data:image/png;base64,{DATA}"}
    content = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": url}]
    asked = {"model": "liar-vlm", "messages": [{"role": "user", "content": content}]}
    async with (
        serving(tmp_path, entry_points=points, models=own) as running,
        aiohttp.ClientSession(running.url, headers=running.headers) as http,
        http.post("/v1/chat/completions", json={**asked, "stream": stream}) as response,
    ):
        text = await response.text()
        assert response.status == (200 if stream else 500)
    error = json.loads(text.split("data: ")[-1].split("\n")[0] if stream else text)["error"]
    assert error["message"] == SAID.format("vlm", "detections")


async def test_a_service_is_told_the_same(served):
    """What a method or a generator of the model gives is held to it, as is a prediction."""
    service = served.service("liar")
    words = r"liar-detect: detections\[0\].confidence is 9"
    async with service.ctx.models.acquire("liar-detect") as model:
        result, told = await model.call("tell", 0.1)
        assert (result.detections[0].bbox, told) == ((0.0, 0.0, 64.0, 49.0), "told")
        with pytest.raises(MataError, match=words):
            await model.call("tell", 1.0)
        with pytest.raises(MataError, match=words):
            await model.predict(PNG, {"confidence": 1.0})
        stream = model.stream("tells", 0.1, 1.0)
        assert (await anext(stream)).detections
        with pytest.raises(MataError, match=words):
            await anext(stream)


@pytest.mark.parametrize("status", [200, 0, 101, 999, -1])
def test_a_failure_is_told_as_one(status):
    """A model's error with the status of a success, or with one that there is not, is 500."""
    assert Failure(status, "no").error().status == 500
    assert Failure(418, "no").error().status == 418


@pytest.mark.parametrize("later", [math.nan, math.inf, -1.0, 1e300])
def test_no_client_is_told_to_come_back_never(later):
    """What is no number of seconds is left out."""
    assert Failure(503, "no", later).error().retry_after is None
    assert Failure(503, "no", 2.5).error().retry_after == 2.5


def test_a_reason_stays_one_line():
    """What a model says of its failure forges no line of the log, and is not the log's size."""
    assert Failure(400, "a\nb\x1b[2J").error().detail == "a b [2J"
    assert len(Failure(400, "x" * 1_000_000).error().detail) == 10_000
