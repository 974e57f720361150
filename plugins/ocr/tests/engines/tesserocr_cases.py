"""tesserocr itself with the system's data: run by ``run.py``, in an environment that has it."""

from __future__ import annotations

import numpy as np
import pytest

from mataserver import BadRequest, Unavailable
from mataserver_ocr.tesseract import TesseractParams
from mataserver_ocr.tesserocr import InProcess


@pytest.fixture(scope="module")
def inside(load):
    return load("tesseract", in_process=True)


def read(model, image, **params):
    return model.predict([image], [TesseractParams(**params)])[0]


def test_it_runs_inside_the_worker(inside):
    """The setting chooses the engine that starts no process."""
    assert isinstance(inside._engine, InProcess)


def test_it_reads_what_the_program_reads(inside, load, write, page, receipt, error_rate):
    """A page and the demo's receipt come out without an error more, and lines lie alike."""
    outside = load("tesseract")
    for image, true in ((write(page, size=(1000, 560), letters=28), page), receipt):
        one, other = read(inside, image), read(outside, image)
        assert error_rate(one.text, true) <= max(0.01, error_rate(other.text, true))
        assert len(one.regions) == len(other.regions)
        for a, b in zip(one.regions, other.regions, strict=True):
            assert a.bbox == pytest.approx(b.bbox, abs=4)
            assert a.confidence == pytest.approx(b.confidence, abs=0.1)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (1, 9000), (300, 300)])
def test_a_picture_without_text_has_no_regions(inside, size):
    """Empty pictures of any size give an empty text and an empty list."""
    result = read(inside, np.full((*size, 3), 120, np.uint8))
    assert (result.text, result.regions) == ("", [])


def test_pictures_do_not_leak_into_each_other(inside, write):
    """A batch keeps its order, and a picture leaves nothing to the next one."""
    images = [write("One"), np.zeros((40, 40, 3), np.uint8), write("Two")]
    results = inside.predict(images, [TesseractParams()] * 3)
    assert [result.text for result in results] == ["One", "", "Two"]


def test_a_slow_image_is_given_up(load, write, page):
    """After the configured seconds the request is answered with 400; the next one is read."""
    model = load("tesseract", in_process=True, timeout=0.001)
    with pytest.raises(BadRequest, match=r"within 0\.001 s"):
        read(model, write(page * 3, size=(2000, 3000), letters=48))


def test_a_language_without_data_is_named(inside, write):
    """A known language whose data is not there is 503 with the package to install."""
    with pytest.raises(Unavailable, match="tesseract-ocr-jpn"):
        read(inside, write("One"), language="jpn")


def test_a_directory_without_data_is_an_error(load, tmp_path):
    """An empty ``data`` directory is noticed when the model is loaded."""
    with pytest.raises(Unavailable, match="finds no language data"):
        load("tesseract", in_process=True, data=str(tmp_path))
