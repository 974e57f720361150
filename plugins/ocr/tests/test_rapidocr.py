"""RapidOCR on drawn pages, signs and the demo's receipt."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mataserver import BadRequest, InvalidParams
from mataserver_ocr import page_queue
from mataserver_ocr.rapidocr import RapidOcrParams

SIGN = "Gate 7\nLoading zone\nMax 3.5 t"


@pytest.fixture(scope="module")
def engine(load):
    return load("rapidocr")


def read(engine, image, **params):
    return engine.predict([image], [RapidOcrParams(**params)])[0]


def test_a_page_is_read(engine, write, page, error_rate):
    """At most one letter in a hundred of a printed page is wrong."""
    result = read(engine, write(page, size=(1000, 560), letters=28))
    assert error_rate(result.text, page) <= 0.01
    assert len(result.regions) == len(page.splitlines())


def test_the_receipt_is_read(engine, receipt, error_rate):
    """The demo's slanted receipt comes out in order with hardly an error."""
    image, true = receipt
    assert error_rate(read(engine, image).text, true) <= 0.02


@pytest.mark.parametrize("angle", [-20, -5, 5, 20])
def test_a_tilted_sign_is_read(engine, write, error_rate, angle):
    """Slanted lines are read from top to bottom, as upright ones."""
    image = write(SIGN, letters=44, angle=angle)
    assert error_rate(read(engine, image).text, SIGN) <= 0.05


def test_a_sign_turned_clockwise_is_read(engine, write):
    """Each line of a sign that lies on its right side is read."""
    image = write(SIGN, letters=44, angle=270)
    assert {region.text for region in read(engine, image).regions} == set(SIGN.splitlines())


def test_white_on_black_is_read(engine, write, error_rate):
    """Light letters on a dark ground are read as well."""
    assert error_rate(read(engine, 255 - write(SIGN)).text, SIGN) <= 0.05


def test_a_region_says_where_its_line_is(engine, write):
    """The box encloses the ink of the line closely, in pixels of the given image."""
    image = write("Harbour", size=(400, 200), at=(120, 90))
    (region,) = read(engine, image).regions
    ys, xs = np.nonzero(image.min(axis=2) < 128)
    assert region.text == "Harbour"
    assert region.bbox == pytest.approx((xs.min(), ys.min(), xs.max(), ys.max()), abs=16)
    assert 0.8 < region.confidence <= 1.0


def test_a_large_picture_keeps_its_pixels(engine, write):
    """A picture that is scaled down for reading has boxes in its own pixels."""
    image = write("Harbour", size=(4000, 2400), letters=300, at=(1500, 1000))
    (region,) = read(engine, image).regions
    ys, xs = np.nonzero(image.min(axis=2) < 128)
    assert region.text == "Harbour"
    assert region.bbox == pytest.approx((xs.min(), ys.min(), xs.max(), ys.max()), abs=110)


def test_a_strip_is_read_where_it_is(engine, write):
    """A picture of one long line, far wider than high, is padded without moving the boxes."""
    text = "The first boats leave before the fog has lifted from the water"
    image = write(text, size=(1500, 60), at=(20, 8))
    (region,) = read(engine, image).regions
    assert region.text == text
    assert 0 <= region.bbox[0] <= 20
    assert region.bbox[3] <= 60


def test_columns_of_a_row_are_read_together(engine, write):
    """Name and price of each row follow each other, from the left."""
    image = np.minimum(
        write("Tea\nCake\nSoup", at=(40, 40)), write("2.40\n4.80\n6.10", at=(450, 40))
    )
    assert read(engine, image).text == "Tea\n2.40\nCake\n4.80\nSoup\n6.10"


@pytest.mark.parametrize("angle", [0, 90, 180, 270, 2])
def test_columns_of_text_are_read_down(engine, write, error_rate, angle):
    """A page in two columns is read column by column, the title first, however it lies."""
    title = "News of the harbour, printed every week"
    left = "The harbour opens at six in the\nmorning, and the first boats are\ngone before the fog"
    right = (
        "Questions are answered by phone\nbetween nine and noon, never on\nSunday, from March on"
    )
    parts = ((title, (160, 30)), (left, (40, 110)), (right, (560, 110)))
    page = np.minimum.reduce(
        [write(text, size=(1040, 280), letters=26, at=at, angle=angle) for text, at in parts]
    )
    assert error_rate(read(engine, page).text, f"{title}\n{left}\n{right}") < 0.03


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (1, 9000), (9000, 1), (300, 300)])
def test_a_picture_without_text_has_no_regions(engine, size):
    """Empty pictures of any size give an empty text and an empty list."""
    result = read(engine, np.full((*size, 3), 120, np.uint8))
    assert (result.text, result.regions) == ("", [])


def test_other_letters_of_europe_are_read(engine, write):
    """Accents and umlauts survive; the language is accepted and changes nothing."""
    image = write("Grüße aus Köln, à bientôt", letters=40)
    plain, named = read(engine, image), read(engine, image, language="de+fra")
    assert plain.text == "Grüße aus Köln, à bientôt"
    assert named == plain


def test_a_language_it_cannot_read_is_refused(engine, write):
    """The engine refuses before it reads anything."""
    with pytest.raises(InvalidParams, match="Russian"):
        read(engine, write(SIGN), language="rus")


def test_a_batch_keeps_its_order(engine, write):
    """Each image of a batch gets its own result."""
    images = [write("One"), np.zeros((40, 40, 3), np.uint8), write("Two")]
    assert [result.text for result in engine.predict(images, [RapidOcrParams()] * 3)] == [
        "One",
        "",
        "Two",
    ]


def test_the_least_confidence_is_a_setting(load, write):
    """Lines below ``min_confidence`` are left out."""
    assert read(load("rapidocr", min_confidence=1.0), write(SIGN)).regions == []


OFFLINE = """
import logging, pathlib, sys
import numpy as np

def refuse(event, args):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}:
        raise RuntimeError(f"the network was used: {args}")

sys.addaudithook(refuse)
import mataserver_ocr
from mataserver import LoadContext, ModelSpec

backend = next(b for b in mataserver_ocr.backends() if b.name == "rapidocr")
context = LoadContext(mataserver_ocr.settings()(), "cpu", "auto", 1, pathlib.Path(), logging.root)
model = backend.load(ModelSpec("rapidocr", "ocr", "pip"), context)
result = model.predict([np.zeros((50, 50, 3), np.uint8)], [backend.params()])
sys.stdout.write(repr(result[0].text))
"""


def test_it_loads_and_reads_offline_and_in_silence(tmp_path):
    """Nothing touches the network, and neither stdout nor stderr gets a word of the engine's."""
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "''"
    assert "RapidOCR" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["_detect", "_classify", "_recognise"])
def test_a_page_that_takes_too_long_is_given_up(load, write, monkeypatch, step):
    """Every step looks at the clock, so that the server need not end the worker; the next is read.

    A page of thousands of lines took more than ``infer_timeout``, and others' requests with it.
    """
    engine = load("rapidocr", timeout=20)
    reader, image = engine._reader, write(SIGN, letters=44)
    known, calls = getattr(reader, step), []

    def slow(given):
        result = known(given)
        calls.append(given)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(reader if step == "_detect" else reader._reader, step, slow)
        patch.setattr(page_queue, "monotonic", lambda: 21.0 * len(calls))
        with pytest.raises(BadRequest, match="within 20 s"):
            read(engine, image)
    assert len(calls) == 1  # the next step was not taken
    assert len(read(engine, image).regions) == 3
