"""Tesseract on drawn pages and the demo's receipt, and what it says when something is missing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mataserver import BadRequest, InvalidParams, Unavailable
from mataserver_ocr import tesseract_program
from mataserver_ocr.options import TesseractSettings
from mataserver_ocr.page_queue import Clock
from mataserver_ocr.tesseract import MAX_SIDE, Program, Tesseract, TesseractParams
from mataserver_ocr.tesseract_words import Word

installed = pytest.mark.skipif(
    shutil.which("tesseract") is None, reason="the program tesseract is not installed"
)


@pytest.fixture(scope="module")
def engine(load):
    return load("tesseract")


def knowing(*installed):
    """Return a model that believes that it has data for these languages."""
    settings = TesseractSettings()
    return Tesseract(settings, frozenset(installed), Program(settings))


def read(engine, image, **params):
    return engine.predict([image], [TesseractParams(**params)])[0]


@installed
def test_a_page_is_read(engine, write, page, error_rate):
    """At most one letter in a hundred of a printed page is wrong, and each line is a region."""
    result = read(engine, write(page, size=(1000, 560), letters=28))
    assert error_rate(result.text, page) <= 0.01
    assert len(result.regions) == len(page.splitlines())


@installed
def test_the_receipt_is_read(engine, receipt, error_rate):
    """The demo's receipt, slanted by three degrees, comes out with hardly an error."""
    image, true = receipt
    assert error_rate(read(engine, image).text, true) <= 0.05


@installed
def test_a_grey_picture_is_passed_in_one_channel(monkeypatch, write):
    """Only one without colours is: the program takes longer for three and reads the same words."""
    formats, run = [], tesseract_program._run

    def recording(arguments, clock):
        formats.append(Path(arguments[0]).read_bytes()[:2])
        run(arguments, clock)

    monkeypatch.setattr(tesseract_program, "_run", recording)
    grey = write("Harbour master 1207")[..., :1].repeat(3, axis=2)
    tinted = grey.copy()
    tinted[0, 0] = 255, 255, 254
    program = Program(TesseractSettings())
    words = [program.words(image, "eng", Clock()) for image in (grey, tinted)]
    assert formats == [b"P5", b"P6"]
    assert words[0] == words[1]
    assert [word.text for word in words[0]] == ["Harbour", "master", "1207"]


@installed
def test_a_slightly_tilted_page_is_read(engine, write, page, error_rate):
    """Two degrees of tilt do no harm."""
    image = write(page, size=(1000, 560), letters=28, angle=2)
    assert error_rate(read(engine, image).text, page) <= 0.03


@installed
def test_a_region_says_where_its_line_is(engine, write):
    """The box encloses the words of the line, the confidence is their mean between 0 and 1."""
    image = write("Harbour office", size=(600, 200), at=(120, 90))
    (region,) = read(engine, image).regions
    ys, xs = np.nonzero(image.min(axis=2) < 128)
    assert region.text == "Harbour office"
    assert region.bbox == pytest.approx((xs.min(), ys.min(), xs.max(), ys.max()), abs=4)
    assert 0.7 < region.confidence <= 1.0


@installed
def test_a_confidence_is_the_programs(engine, write, tmp_path):
    """It is the program's own, and not its whole per cents."""
    image = write("Harbour")
    Image.fromarray(image).save(tmp_path / "page.png")
    command = ["tesseract", str(tmp_path / "page.png"), "-", "tsv"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (row,) = [row.split("\t") for row in table.splitlines() if row.endswith("\tHarbour")]
    (region,) = read(engine, image).regions
    assert region.confidence == pytest.approx(float(row[10]) / 100, abs=1e-6)


@installed
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_page_is_read_and_its_boxes_stand_where_the_text_is(
    engine, write, page, error_rate, turns
):
    """Upside-down letters make words of no sense: such a page is read turned."""
    upright = write(page, size=(1000, 560), letters=28)
    turned = np.ascontiguousarray(np.rot90(upright, turns))
    result = read(engine, turned)
    assert error_rate(result.text, page) <= 0.01
    ys, xs = np.nonzero(turned.min(axis=2) < 128)
    boxes = np.array([region.bbox for region in result.regions])
    around = (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0))
    assert around == pytest.approx((xs.min(), ys.min(), xs.max(), ys.max()), abs=4)


class Words:
    """An engine that reads two lines, of which the second one is faint.

    ``turned`` is the confidence of both in a picture whose first pixel is white.
    """

    def __init__(self, turned=0.0, *, is_slow=False):
        self.turned, self.is_slow, self.seconds = turned, is_slow, []

    def words(self, image, codes, clock):
        """Return three words; the confidence of a line is the mean of its words'."""
        self.seconds.append(clock.left)
        white = bool(image[0, 0, 0])
        if white and self.is_slow:
            raise TimeoutError
        sure = [self.turned] * 3 if white else [0.9, 0.7, 0.3]
        places = [("1", (10, 10, 50, 30)), ("1", (60, 10, 100, 30)), ("2", (10, 40, 50, 60))]
        texts = ["Office", "harbour", "fog"] if white else ["Harbour", "office", "fog"]
        return [
            Word(text, ("1", "1", line), box, each, spaced=True)
            for text, (line, box), each in zip(texts, places, sure, strict=True)
        ]


def of_words(engine):
    """Return a model that reads with a stand-in, and a picture that is white upside down."""
    picture = np.zeros((80, 120, 3), np.uint8)
    picture[-1, -1] = 255
    return Tesseract(TesseractSettings(timeout=9.0), frozenset({"eng"}), engine), picture


def test_both_readings_of_a_faint_page_share_the_timeout():
    """What is read upside down has the time that is left; the first reading stands without it."""
    better, slow = Words(0.95), Words(is_slow=True)
    assert read(*of_words(better)).text == "Office harbour\nfog"
    assert 0 < better.seconds[1] < better.seconds[0] <= 9.0
    assert read(*of_words(slow)).text == "Harbour office\nfog"
    assert len(slow.seconds) == 2


def test_what_is_less_sure_than_asked_for_is_left_out():
    """``confidence`` leaves out lines, from the text too; without it all are told."""
    model, picture = of_words(Words())
    assert read(model, picture).text == "Harbour office\nfog"
    assert read(model, picture, confidence=0.8).text == "Harbour office"
    assert read(model, picture, confidence=0.81).regions == []


@installed
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (1, 9000), (300, 300)])
def test_a_picture_without_text_has_no_regions(engine, size):
    """Empty pictures of any size give an empty text and an empty list."""
    result = read(engine, np.full((*size, 3), 120, np.uint8))
    assert (result.text, result.regions) == ("", [])


@installed
@pytest.mark.parametrize("language", ["eng", "en", "English", "en+eng"])
def test_every_name_of_an_installed_language_is_taken(engine, write, language):
    """Codes of other engines are mapped to Tesseract's."""
    assert read(engine, write("Harbour"), language=language).text == "Harbour"


@pytest.mark.parametrize("data", ["osd", "equ", "eng+osd"])
def test_data_that_is_no_language_is_refused(data):
    """Tesseract lists its data for directions as a language, and would read a page with it."""
    with pytest.raises(InvalidParams, match=r"^params\.language: unknown language '(osd|equ)'"):
        knowing("eng", "equ", "osd").codes(data)


@installed
def test_segmentation_is_a_setting(load, write):
    """As one line (mode 7) a picture of one line is read whole."""
    result = read(load("tesseract", segmentation=7), write("Gate 7", size=(300, 120)))
    assert result.text == "Gate 7"


@installed
def test_a_slow_image_is_given_up(load, write, page):
    """After the configured seconds the request is answered with 400 and says why."""
    engine = load("tesseract", timeout=0.001)
    with pytest.raises(BadRequest, match=r"within 0\.001 s"):
        read(engine, write(page, size=(1000, 560), letters=28))


@installed
def test_a_picture_beyond_the_engines_limit_is_refused(engine):
    """A longer side than Tesseract takes is 400 before the program runs."""
    with pytest.raises(BadRequest, match=str(MAX_SIDE)):
        read(engine, np.zeros((1, MAX_SIDE + 1, 3), np.uint8))


@installed
def test_a_configured_language_must_be_installed(load):
    """The default language is looked for when the model is loaded, not at the first request."""
    with pytest.raises(InvalidParams, match="unknown language 'elvish'"):
        load("tesseract", language="elvish")


def test_a_missing_program_is_named_with_its_package(load, monkeypatch, tmp_path):
    """Without ``tesseract`` on PATH, loading says what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="apt install tesseract-ocr"):
        load("tesseract")


def test_missing_language_data_is_named_with_its_package():
    """A known language whose data is not there is 503 with the package to install."""
    engine = knowing("eng")
    with pytest.raises(Unavailable, match=r"German is not installed.* tesseract-ocr-deu"):
        engine.codes("eng+de")
    with pytest.raises(Unavailable, match="apt install tesseract-ocr-chi-sim"):
        engine.codes("zh")


def test_an_unknown_language_is_refused():
    """A code of no table is 422, and nothing of it can reach the command line."""
    engine = knowing("eng")
    for code in ("klingon", "--psm 0", "../eng"):
        with pytest.raises(InvalidParams, match=r"params\.language: unknown"):
            engine.codes(code)


def test_data_of_the_users_own_is_taken_by_name():
    """Installed data that no table knows is asked for by its own name, once."""
    engine = knowing("eng", "seven_segments")
    assert engine.codes("seven_segments+en+eng") == "seven_segments+eng"
