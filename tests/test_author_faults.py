"""What an author's code does wrong while it runs is told where it happened; the server goes on."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from conftest import picture
from mataserver.app import lifetime
from mataserver.config import Settings
from mataserver.engines.failures import failure_of
from mataserver.engines.result_validation import InvalidResultError, validate_result
from mataserver.plugins import discover, discovery
from mataserver.results import Detection, DetectResult, Keypoint, PoseResult
from mataserver.testing import serving
from service_plugins import plugin  # noqa: F401 - a fixture

PNG = picture()
FEED = """
import json
from mataserver import SessionSource

def listed():
    yield b"a"

async def lost():
    yield {}["the first frame"]

async def arrays():
    yield [1, 2, 3]

async def leaves():
    try:
        yield PNG
    finally:
        raise ValueError("on the way out")

class Service(Base):
    def routes(self):
        return [Route("GET", "/echo", self.echo, needs="infer", socket=True)]

    async def session_source(self, source, fps):
        name = source.removeprefix("feed:")
        return SessionSource(globals()[name], name) if name != source else None

    async def echo(self, request):
        async with self.ctx.http.socket(request) as socket:
            async for message in socket:
                await socket.send(message)
"""
WRONG_MODELS = """
import numpy as np
from mataserver import Params

class Service(Base):
    pass

class Asked(Params, frozen=True):
    how: str = "nothing"

class Wrong:
    def predict(self, images, params):
        if params[0].how == "none":
            return None
        if params[0].how == "numpy":
            return [ClassifyResult([Classification(np.array(["a cat"])[0], 0.5)])]
        if params[0].how == "raise":
            return [{}["weights"] for _ in images]
        return ClassifyResult([Classification("cat", 0.5)])

def load(spec, ctx):
    return Wrong() if spec.name == "wrong" else None

@hookimpl
def backends():
    return [Backend(name=name, task="classify", source="pip", load=load, params=Asked)
            for name in ("wrong", "empty")]
"""


@pytest.mark.parametrize("engine", ["thread", "process"])
async def test_what_is_no_model_and_what_is_no_list_of_results(plugin, mata_client, engine):  # noqa: F811
    """It is named as what it is, in place of an error of the server's own code."""
    models = [{"model": name, "task": "classify"} for name in ("wrong", "empty")]
    client = await mata_client(plugin(WRONG_MODELS), engine=engine, models=models)
    for query, said in (
        ("wrong&how=none", "invalid result: wrong: predict returned a NoneType, not a list of"),
        ("wrong", "wrong: predict returned a ClassifyResult, not a list of results"),
        ("empty", "could not be loaded: empty: load returned a NoneType, which has no method pred"),
    ):
        answer = await client.post(f"/v1/infer?model={query}", data=PNG)
        assert (answer.status, said in (await answer.json())["detail"]) == (500, True)


@pytest.mark.parametrize("packed", ["application/json", "application/msgpack"])
async def test_a_text_of_numpy_is_a_text(plugin, mata_client, packed):  # noqa: F811
    """A label out of an array of labels looks like Python's, and is one of its kind."""
    models = [{"model": "wrong", "task": "classify"}]
    client = await mata_client(plugin(WRONG_MODELS), engine="thread", models=models)
    headers = {"Accept": packed, "Content-Type": "image/png"}
    answer = await client.post("/v1/infer?model=wrong&how=numpy", data=PNG, headers=headers)
    assert (answer.status, b"a cat" in await answer.read()) == (200, True)


async def test_the_log_names_the_model_that_failed(plugin, mata_client, caplog):  # noqa: F811
    """A traceback shows only whose code it is, which serves any number of models."""
    models = [{"model": "wrong", "task": "classify"}]
    client = await mata_client(plugin(WRONG_MODELS), engine="thread", models=models)
    answer = await client.post("/v1/infer?model=wrong&how=raise", data=PNG)
    assert await answer.json() == {"detail": "The model failed: KeyError"}
    told = [each for each in caplog.records if each.name == "mataserver.worker"]
    assert [each.getMessage() for each in told] == ["wrong: The model failed"]
    assert "KeyError: 'weights'" in caplog.text


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (DetectResult([Detection("a", np.float32(0.5), (0.0, 0.0, 1.0, 1.0))]), "a numpy.float32"),
        (DetectResult([Detection("a", 0.5, np.zeros(4))]), "finite numbers: it is a numpy.ndarray"),
        (DetectResult([Detection("a", 0.5, tuple(np.zeros(4, int)))]), "it holds a numpy.int64"),
        (DetectResult([Detection(b"a", 0.5, (0.0, 0.0, 1.0, 1.0))]), "a string: it is a bytes"),
        (
            DetectResult([Detection("a", 0.5, (0.0,) * 4, extra={"a": np.bool_(1)})]),
            "extra holds a numpy.bool",
        ),
        (
            DetectResult([Detection("a", 0.5, (0.0, 0.0, 1.0, 1.0), np.int64(1))]),
            "64 bits: it is a numpy.int64",
        ),
        (
            PoseResult([Keypoint("a", 0.5, (0.0, 0.0, 1.0, 1.0), [(1.0, 2.0, np.float32(1))])]),
            "finite numbers: it holds a numpy.float32",
        ),
    ],
)
def test_numbers_of_numpy_are_called_so(result, said):
    """They look like Python's when they are printed."""
    with pytest.raises(InvalidResultError, match=said):
        validate_result(result, type(result).tasks[0], (48, 64))


@pytest.fixture
async def feed(plugin, mata_client, fake_models):  # noqa: F811
    """A client of a server with the service of ``FEED``."""
    return await mata_client(plugin(f"PNG = {PNG!r}\n{FEED}"), engine="thread")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lost", "KeyError: 'the first frame'"),
        ("listed", "TypeError: frames() of the source gave a generator, not an async generator"),
        ("arrays", "TypeError: the source gave a list, not the bytes of an encoded picture"),
    ],
)
async def test_a_source_that_fails(feed, caplog, name, said):
    """Who looks is told a sentence; the log has the error and where it was, once."""
    asked = {"model": "fake-detect", "source": f"feed:{name}"}
    session = (await (await feed.post("/v1/sessions", json=asked)).json())["session_id"]
    async with feed.ws_connect(f"/v1/stream/{session}") as socket:
        assert await socket.receive_json(timeout=10) == {
            "type": "error",
            "detail": "The camera gives no frames: it has failed",
        }
    assert said in caplog.text
    assert (await feed.delete(f"/v1/sessions/{session}")).status == 204


async def test_a_source_that_fails_as_it_is_closed(feed, caplog):
    """That is logged, and the session ends all the same."""
    asked = {"model": "fake-detect", "source": "feed:leaves"}
    session = (await (await feed.post("/v1/sessions", json=asked)).json())["session_id"]
    async with feed.ws_connect(f"/v1/stream/{session}") as socket:
        assert (await socket.receive_json(timeout=10))["detections"]
        assert (await feed.delete(f"/v1/sessions/{session}")).status == 204
    assert "ValueError: on the way out" in caplog.text
    assert (await feed.get(f"/v1/sessions/{session}")).status == 404


async def test_a_handler_of_a_websocket_returns_nothing(feed, caplog):
    """As the docs have it: that is no failure, neither in the log nor in the metrics."""
    async with feed.ws_connect("/echo") as socket:
        await socket.send_str("a")
        assert await socket.receive_str() == "a"
    metrics = ""
    while 'route="/echo"' not in metrics:
        metrics = await (await feed.get("/metrics")).text()
    assert 'mataserver_requests_total{method="GET",route="/echo",status="101"} 1.0' in metrics
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_a_service_that_does_not_start_is_named(plugin, data_dir, monkeypatch, caplog):  # noqa: F811
    """While the server waits for it, with the line where it is; then it is served as any."""
    monkeypatch.setattr(lifetime, "SLOW_START_SECONDS", 0.0)
    source = """
import asyncio

class Service(Base):
    async def __aenter__(self):
        while not (self.ctx.data_dir / "open").exists():
            await asyncio.sleep(0.01)
        return self
"""
    point = plugin(source, name="late")
    data_dir.mkdir(exist_ok=True)

    async def open_when_told():
        while "the server waits for the service of late" not in caplog.text:
            await asyncio.sleep(0.01)
        (data_dir / "open").touch()

    opening = asyncio.create_task(open_when_told())
    async with serving(data_dir, entry_points=[point]):
        await opening
    assert f"{point.module}.py, line " in caplog.text


def test_a_broken_plugin_says_where_it_broke(plugin):  # noqa: F811
    """By the file and the line of its own code that was reached last, without a folder."""
    source = """
def helper():
    import json
    return json.loads("{")

@hookimpl
def backends():
    return helper()

class Service(Base):
    pass
"""
    point = plugin(source)
    (broken,) = discover(Settings(), [point]).found
    line = source.splitlines().index('    return json.loads("{")')
    assert broken.error is not None
    assert broken.error.startswith("JSONDecodeError: ")
    assert broken.error.partition(f"({point.module}.py, line ")[2].endswith(")")
    told = int(broken.error.rpartition(" ")[2].rstrip(")"))
    written = (plugin_source(point)).splitlines()
    assert written[told - 1] == source.splitlines()[line]


def plugin_source(point):
    """Return the text of a plugin's module."""
    return Path(sys.modules[point.module].__file__).read_text()


def test_where_memory_ran_out_is_told(caplog):
    """The log leads to the line that asked for too much; the client is told the fact alone."""

    def greedy():
        raise MemoryError

    with pytest.raises(MemoryError) as caught:
        greedy()
    assert failure_of(caught.value, "The model failed", "greedy").detail == "Out of memory"
    assert "in greedy" in caplog.text


def test_a_slow_import_is_named(plugin, monkeypatch):  # noqa: F811
    """While the start waits for it, the log says for which plugin."""
    told = threading.Event()
    monkeypatch.setattr(discovery, "SLOW_IMPORT_SECONDS", 0.01)
    monkeypatch.setattr(
        discovery.log, "warning", lambda *said: (told.said.append(said), told.set())
    )
    told.said = []
    monkeypatch.setattr(sys, "waited_for", told, raising=False)
    point = plugin("import sys\nassert sys.waited_for.wait(20)\nService = 5", name="slow")
    discover(Settings(), [point])
    ((text, name, _),) = told.said
    assert (text % (name, 5)).startswith("the start waits for the plugin slow, which is still")
