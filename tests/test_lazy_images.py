"""Models whose streams decode an image only when its turn has come."""

from __future__ import annotations

import logging
import threading

import pytest

from conftest import picture
from mataserver import OcrResult, Params
from mataserver.contract.backend import LoadContext, ModelSpec
from mataserver.engines.host import ModelHost
from mataserver.engines.work import Assignment, Job
from mataserver.errors import MataError


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


@pytest.fixture
def host(tmp_path):
    """Return a loaded reader."""
    context = LoadContext(None, "cpu", "auto", 1, tmp_path, logging.getLogger("late"))
    spec = ModelSpec("late", "ocr", "pip")
    host = ModelHost(Assignment(lambda *_: LateReader(), Params, spec, context, 1))
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
