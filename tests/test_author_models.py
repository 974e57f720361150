"""What an author's model cannot be asked is told when it is loaded, and as whose fault it is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from conftest import picture
from service_plugins import plugin  # noqa: F401 - a fixture

PNG = picture()
MODELS = """
import functools
import msgspec
import numpy as np
from msgspec import Struct
from mataserver import Detection, DetectResult, Params, VlmResult

SIZES = {"integers": tuple(np.array([64, 48])), "array": np.array([64, 48]), "floats": (64.0, 48.0)}

class Service(Base):
    pass

def decorated(each):
    @functools.wraps(each)
    def predict(self, images, params):
        return [each(self, image) for image in images]
    return predict

class Own(Struct):
    number: int

class Good:
    def predict(self, images, params):
        return [DetectResult([]) for _ in images]

class Short(Good):
    def predict(self, images):
        return []

class Awaited(Good):
    async def predict(self, images, params):
        return []

class Worked(Good):
    session = None
    stream = object()  # ONNX Runtime's session or PyTorch's stream, for example
    step_timeout = np.float32(3)
    labels = {0: "person"}

    def __init__(self, input_size):
        self.input_size = input_size

    @decorated
    def predict(self, image):
        return DetectResult([])

class Alone(Good):
    def session(self):
        return None

class Square(Good):
    input_size = 224

class Planes(Good):
    input_size = (3, 224, 224)

class Digits(Good):
    input_size = "64"

class Bytes(Good):
    input_size = b"64"

class Patient(Good):
    step_timeout = float("inf")

class Strict(Good):
    def predict(self, images, params):
        return msgspec.convert({}, Own)

class Empty(Good):
    def session(self, params):
        return None

def load(spec, ctx):
    if spec.name in SIZES:
        return Worked(SIZES[spec.name])
    return globals()[spec.name.capitalize()]()

def load_strict(spec, ctx):
    return msgspec.convert({}, Own)

class Listed:
    def predict(self, images, params):
        return [VlmResult("a") for _ in images]

    def stream(self, image, params):
        return ["a", VlmResult("a")]

def load_text(spec, ctx):
    return Listed()

NAMES = ("good", "short", "awaited", "runtime", "alone", "square", "planes", "digits", "bytes",
         "patient",
         "strict", "empty", *SIZES)

@hookimpl
def backends():
    yield from (Backend(name=name, task="detect", source="pip", load=load,
                        step_timeout=np.float32(5)) for name in NAMES)
    yield Backend(name="unread", task="detect", source="pip", load=load_strict)
    yield Backend(name="listed", task="vlm", source="pip", load=load_text)
"""
UNLOADED = {
    "short": "predict is called with (images, params), and takes (images)",
    "awaited": "predict must be a plain def, not async def",
    "alone": "session is called with (params), and takes ()",
    "square": "its input_size is 224, and must be (height, width) in pixels",
    "planes": "its input_size is (3, 224, 224), and must be (height, width) in pixels",
    "digits": "its input_size is '64', and must be (height, width) in pixels",
    "bytes": "its input_size is b'64', and must be (height, width) in pixels",
    "patient": "its step_timeout is inf, and must be 0 to 3600 seconds",
}
"""By the model's name: why it is not loaded."""
WORKING = ("integers", "array", "floats")
"""Models whose attributes are unusual, by the kind of their input_size."""


@pytest.fixture(params=["thread", "process"])
async def client(request, plugin, mata_client):  # noqa: F811
    """A client of a server with the models above."""
    models = [
        {"model": name, "task": "detect"}
        for name in (*UNLOADED, *WORKING, "strict", "empty", "unread")
    ]
    models.append({"model": "listed", "task": "vlm"})
    point = plugin(MODELS)
    return await mata_client(point, engine=request.param, models=models)


async def test_a_model_that_cannot_be_asked_is_not_loaded(client):
    """The load says which method or attribute is wrong; a request had a ``TypeError``."""
    for name, reason in UNLOADED.items():
        answer = await client.post("/v1/models/warmup", json={"model": name})
        said = (await answer.json())["detail"]
        assert (answer.status, said) == (500, f"The model could not be loaded: {name}: {reason}")


async def test_what_is_unusual_and_works_is_loaded(client):
    """Attributes that are no methods are not the server's; numbers may be NumPy's."""
    jpeg = picture(width=1200, height=900, form="JPEG")
    session = await (await client.post("/v1/sessions", json={"model": "array"})).json()
    async with client.ws_connect(f"/v1/stream/{session['session_id']}") as socket:
        await socket.send_bytes(jpeg)
        assert (await socket.receive_json(timeout=20))["detections"] == []
    for name in WORKING:
        answer = await client.post(f"/v1/infer?model={name}", data=jpeg)
        assert (answer.status, (await answer.json())["detections"]) == (200, [])


async def test_what_a_model_cannot_decode_is_no_fault_of_the_client(client):
    """An author uses msgspec as the server does: its error was 422, of the request's params."""
    for name, said in (
        ("strict", "The model failed: ValidationError"),
        ("unread", "The model could not be loaded: ValidationError"),
    ):
        answer = await client.post(f"/v1/infer?model={name}", data=PNG)
        assert (answer.status, await answer.json()) == (500, {"detail": said})


async def test_a_session_without_a_step(client):
    """The frame's error says what ``session`` returned."""
    session = await (await client.post("/v1/sessions", json={"model": "empty"})).json()
    async with client.ws_connect(f"/v1/stream/{session['session_id']}") as socket:
        await socket.send_bytes(PNG)
        said = (await socket.receive_json(timeout=20))["detail"]
    assert said == (
        "The model returned an invalid result: empty: "
        "session returned a NoneType, which has no method step"
    )


async def test_a_stream_that_is_no_generator(client):
    """The text's error says what ``stream`` returned."""
    answer = await client.post("/v1/infer?model=listed", data=PNG)
    said = "The model returned an invalid result: listed: stream returned a list, not a generator"
    assert (answer.status, await answer.json()) == (500, {"detail": said})


PRELOAD = """
from mataserver import logs
from mataserver.engines import zygote
logs.configure("info", "text")
zygote.preload(["exits", "starts", "quiet"])
"""
STARTS = """
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
"""


def test_what_a_preloaded_module_does_to_its_workers(tmp_path):
    """One that exits ended the zygote, and so every model; threads are not there after a fork."""
    (tmp_path / "exits.py").write_text("import sys; sys.exit(4)")
    (tmp_path / "starts.py").write_text(STARTS)
    (tmp_path / "quiet.py").write_text("")
    ran = subprocess.run(
        [sys.executable, "-c", PRELOAD],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert "could not preload exits" in ran.stderr
    told = [line.partition("preload: ")[2] for line in ran.stderr.splitlines() if "threads" in line]
    assert told == ["starts starts threads, which workers do not have: they may wait for ever"]
