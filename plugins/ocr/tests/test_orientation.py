"""Which way a line is turned: with networks that are made up, and with RapidOCR's own."""

from __future__ import annotations

import numpy as np
import pytest

from mataserver_ocr.orientation import (
    CLOCKWISE,
    COUNTERCLOCKWISE,
    UPRIGHT,
    UPSIDE_DOWN,
    LineReader,
    Reading,
    reading_order,
)
from mataserver_ocr.rapidocr import RapidOcrParams

TURNS = (UPRIGHT, COUNTERCLOCKWISE, UPSIDE_DOWN, CLOCKWISE)
"""By the number of quarter turns that numpy turns an upright page counter-clockwise."""
SIGN = "Gate 7\nLoading zone\nMax 3.5 t\n1961\nOK"
PAGE = np.zeros((400, 400, 3), np.uint8)


@pytest.fixture(scope="module")
def engine(load):
    return load("rapidocr")


def read(engine, image, **params):
    return engine.predict([image], [RapidOcrParams(**params)])[0]


def turned(picture, quarters):
    return np.ascontiguousarray(np.rot90(picture, quarters))


def lying(x, y, width, height):
    """Return an upright box as a quad."""
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]


@pytest.mark.parametrize("quarters", range(4))
def test_a_sign_is_read_whichever_way_it_lies(engine, write, quarters):
    """Text, order and place come out for each of the four turns, short and symmetric lines too."""
    upright = write(SIGN, size=(640, 420), letters=44)
    image = turned(upright, quarters)
    result = read(engine, image)
    assert result.text == SIGN
    for region, plain in zip(result.regions, read(engine, upright).regions, strict=True):
        assert region.bbox == pytest.approx(_turned_box(plain.bbox, quarters), abs=8)
        assert region.confidence > 0.9


def _turned_box(box, quarters):
    """Return where a box of the upright sign (640 x 420) lies on the turned one."""
    (x1, y1, x2, y2), width, height = box, 640, 420
    for _ in range(quarters):
        x1, y1, x2, y2 = y1, width - x2, y2, width - x1
        width, height = height, width
    return x1, y1, x2, y2


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_page_is_read(engine, write, page, error_rate, quarters):
    """A printed page that was scanned the wrong way round has hardly an error."""
    image = turned(write(page, size=(1000, 560), letters=28), quarters)
    assert error_rate(read(engine, image).text, page) <= 0.01


@pytest.mark.parametrize("angle", [170, 185, 100, 260])
def test_a_tilted_sign_is_read_whichever_way_it_lies(engine, write, error_rate, angle):
    """Lines that are turned and slanted are read in order."""
    image = write("Gate 7\nLoading zone\nMax 3.5 t", letters=44, angle=angle)
    assert error_rate(read(engine, image).text, "Gate 7\nLoading zone\nMax 3.5 t") <= 0.05


def test_notes_on_their_head_on_an_upright_page_are_read(engine, write, page):
    """Each line is judged by itself: the page first, then what is turned otherwise."""
    image = np.array(write(page, size=(1000, 1000), letters=28))
    image[600:730, 600:930] = turned(
        write("Turned note\nin the corner", size=(330, 130), letters=24, at=(20, 20)), 2
    )
    image[560:890, 100:230] = turned(
        write("Seen 24.11.\nby Jonas", size=(330, 130), letters=24, at=(20, 20)), 1
    )
    lines = read(engine, image).text.splitlines()
    assert lines[:8] == page.splitlines()
    assert "\n".join(lines[8:]) in {
        "Turned note\nin the corner\nSeen 24.11.\nby Jonas",
        "Seen 24.11.\nby Jonas\nTurned note\nin the corner",
    }


@pytest.mark.parametrize("quarters", [0, 2])
def test_digits_of_a_table_stand_as_the_rest_does(engine, write, quarters):
    """A 6 is no 9, and a 1 no dash: the words beside them show how they stand."""
    digits = "0136982457"
    names = "\n".join(f"Crate {letter}" for letter in "ABCDEFGHKM")
    size = (500, 700)
    column = write("\n".join(digits), size=size, letters=32, at=(400, 40))
    upright = np.minimum(write(names, size=size, letters=32), column)
    told = read(engine, turned(upright, quarters)).regions
    assert [region.text for region in told if region.text.isdigit()] == list(digits)


class Made:
    """Networks for lines that say what colour they have; red pixels are at the true start."""

    def __init__(self, says, doubt):
        self.says, self.doubt, self.asked = says, doubt, 0

    def recognise(self, line):
        self.asked += 1
        upright = line[0, 0, 0] > line[-1, -1, 0]
        return self.says[upright]

    def classify(self, lines):
        return [self.doubt if line[0, 0, 0] > line[-1, -1, 0] else 1 - self.doubt for line in lines]


def shaded(*, on_head):
    """A page whose one line, 160 x 20, is bright where it begins."""
    page = PAGE.copy()
    ramp = np.linspace(255, 0, 160).astype(np.uint8)
    page[100:120, 100:260] = (ramp[::-1] if on_head else ramp)[None, :, None]
    return page


@pytest.mark.parametrize("on_head", [False, True])
def test_a_sure_line_is_read_once(on_head):
    """Where classifier and score agree nothing is read twice: turned pages cost what others do."""
    made = Made({True: ("pods", 0.97), False: ("spod", 0.98)}, doubt=0.01)
    page, found = shaded(on_head=on_head), np.array([lying(100.0, 100.0, 160.0, 20.0)])
    [reading] = LineReader(made.recognise, made.classify).read(page, found)
    assert reading == Reading("pods", 0.97, UPSIDE_DOWN if on_head else UPRIGHT)
    assert made.asked == 1


@pytest.mark.parametrize("on_head", [False, True])
def test_an_unsure_line_is_read_both_ways(on_head):
    """A classifier that cannot tell leaves it to the scores."""
    made = Made({True: ("pods", 0.97), False: ("spod", 0.5)}, doubt=0.5)
    page, found = shaded(on_head=on_head), np.array([lying(100.0, 100.0, 160.0, 20.0)])
    [reading] = LineReader(made.recognise, made.classify).read(page, found)
    assert (reading.text, made.asked) == ("pods", 2)


def test_lines_are_ordered_as_if_the_page_were_upright():
    """Each way of lying has an order of its own; the one with the most letters comes first."""
    for quarters, turn in enumerate(TURNS):
        places = [(40, 40), (240, 40), (40, 100)]
        found = [lying(x, y, 120.0, 20.0) for x, y in places]
        for _ in range(quarters):
            found = [[(y, 400 - x) for x, y in quad] for quad in found]
        around = np.array(
            [lying(*np.min(quad, 0), *np.ptp(quad, 0)) for quad in found[::-1]], float
        )
        lines = [Reading(text, 1.0, turn) for text in ("third", "second", "first")]
        assert reading_order(around, lines) == [2, 1, 0]
    both = np.array([lying(0, 0, 100, 20), lying(0, 50, 100, 20)], float)
    assert reading_order(both, [Reading("no", 1, UPSIDE_DOWN), Reading("long", 1, UPRIGHT)]) == [
        1,
        0,
    ]


def test_the_rows_of_a_wide_slanted_page_stay_apart():
    """A fall of one in fifty, over a width of many lines, mixes no rows."""
    found = np.array(
        [
            [
                [x, y + x / 50],
                [x + 400, y + 8 + x / 50],
                [x + 400, y + 38 + x / 50],
                [x, y + 30 + x / 50],
            ]
            for x in (0, 2500, 5000)
            for y in (0, 60)
        ],
        float,
    )
    assert reading_order(found, [Reading("x", 1.0, UPRIGHT)] * 6) == [0, 2, 4, 1, 3, 5]
