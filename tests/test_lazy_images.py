"""Models whose streams decode an image only when its turn has come."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from conftest import picture
from mataserver import OcrResult, Params
from mataserver.contract.backend import LoadContext, ModelSpec
from mataserver.engines.host import ModelHost
from mataserver.engines.process import ProcessEngine
from mataserver.engines.thread import ThreadEngine
from mataserver.engines.work import Assignment, Job, Placement
from mataserver.engines.worker_errors import (
    DecodeTimeoutError,
    NotDispatchedError,
    WorkerReplacedError,
)
from mataserver.errors import MataError
from slow_pictures import slow_jpeg


class LateReader:
    """Tells that it waits, then reads the size of its picture in another thread."""

    lazy_images = True

    def predict(self, images, params):
        raise AssertionError

    def stream(self, image, params):
        yield ""
        shapes = []
        thread = threading.Thread(target=lambda: shapes.append(attempt(image)))
        thread.start()
        thread.join()
        if isinstance(shapes[0], Exception):
            raise shapes[0]
        yield OcrResult(str(shapes[0]), [])


def attempt(image):
    """Return the shape of a picture, or the error."""
    try:
        return image().shape
    except MataError as error:
        return error


class QueueOfPages:
    """Decodes one picture after the other in a thread, and tells meanwhile that it works."""

    lazy_images = True

    def __init__(self):
        self.thread = ThreadPoolExecutor(1)

    def predict(self, images, params):
        raise AssertionError

    def stream(self, image, params):
        decoded = self.thread.submit(image)
        while not wait([decoded], 0.01).done:
            yield ""
        yield OcrResult(str(decoded.result().shape), [])


def load_queue(_spec, _context):
    """Load the model, in whatever process."""
    return QueueOfPages()


def assignment(tmp_path, load):
    """Return what a worker of a model needs."""
    context = LoadContext(None, "cpu", "auto", 1, tmp_path, logging.getLogger("late"))
    return Assignment(load, Params, ModelSpec("late", "ocr", "pip"), context, 1)


@pytest.fixture
def host(tmp_path):
    """Return a loaded reader."""
    host = ModelHost(assignment(tmp_path, lambda *_: LateReader()))
    host.load()
    return host


def test_a_picture_is_decoded_when_the_model_asks_for_it(host, monkeypatch):
    """Until then the encoded bytes are all that a waiting stream holds."""
    decoded, decode = [], host.decode
    monkeypatch.setattr(host, "decode", lambda job: decoded.append(job) or decode(job))
    job = Job(picture(), b"\x80", "json")
    pieces = host.generate(job)
    assert next(pieces) == ""
    assert decoded == []
    outcome = next(pieces)
    assert decoded == [job]
    assert b'"text":"(' in outcome.whole()
    assert outcome.timing.decode > 0
    assert outcome.timing.infer >= 0


def test_what_cannot_be_decoded_is_the_clients_error(host):
    """The same answer as of a model that is given its picture decoded."""
    job = Job(b"no picture", b"\x80", "json")
    first, outcome = host.generate(job)
    assert first == ""
    assert outcome.failure == host.decode(job).failure
    assert outcome.failure.status == 400


def test_wrong_parameters_are_refused_before_a_picture_is_decoded(host, monkeypatch):
    """They need no turn."""
    monkeypatch.setattr(host, "decode", None)
    [outcome] = host.generate(Job(picture(), b"\x01", "json"))
    assert outcome.failure.status == 422


@pytest.mark.parametrize("engine_type", [ProcessEngine, ThreadEngine])
async def test_a_picture_that_takes_long_to_decode_fails_alone(tmp_path, engine_type):
    """Whatever thread decodes it: its own stream is told, the one behind it can be sent anew."""
    engine, given = engine_type(), assignment(tmp_path, load_queue)
    impatient = dataclasses.replace(given.context, decode_timeout=0.2)
    given = dataclasses.replace(given, context=impatient)
    worker = await engine.start(given, Placement("late"))

    async def read(data):
        items = worker.generate(Job(data, b"\x80", "json"))
        return [item async for item in items if item != ""]

    async with asyncio.timeout(60.0):
        [first] = await read(picture())
        assert b'"text":"(' in first.whole()
        slow, behind = asyncio.create_task(read(slow_jpeg())), asyncio.create_task(read(picture()))
        with pytest.raises(DecodeTimeoutError, match=r"over 0\.2 s"):
            await slow
        # The latter if the worker was given up before it was asked: either can be sent anew.
        with pytest.raises((WorkerReplacedError, NotDispatchedError)):
            await behind
    assert not worker.is_alive
    await worker.close()
    await engine.close()


async def test_who_reads_on_when_the_thread_is_given_up_is_told_of_the_own_picture(tmp_path):
    """Sent to the next worker as a request that never began, the picture would end that one too."""
    engine, given = ThreadEngine(), assignment(tmp_path, load_queue)
    impatient = dataclasses.replace(given.context, decode_timeout=0.2)
    worker = await engine.start(dataclasses.replace(given, context=impatient), Placement("late"))
    died = asyncio.Event()
    worker.on_death(lambda _: died.set())

    async def read(data, begun=None):
        async for _ in worker.generate(Job(data, b"\x80", "json")):
            if begun is not None:
                begun.set()
                await died.wait()

    async with asyncio.timeout(60.0):
        begun = asyncio.Event()
        slow = asyncio.create_task(read(slow_jpeg(), begun))
        await begun.wait()
        with pytest.raises(WorkerReplacedError):
            await read(picture())
        with pytest.raises(DecodeTimeoutError, match=r"over 0\.2 s"):
            await slow
    await engine.close()
