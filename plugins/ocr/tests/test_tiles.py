"""Large pages, searched in tiles: with a made-up detector, and read by RapidOCR."""

from __future__ import annotations

import numpy as np
import pytest

from mataserver_ocr import page_reader, strips, tiles
from mataserver_ocr.page_reader import PageReader
from mataserver_ocr.rapidocr import RapidOcrParams

pytestmark = pytest.mark.long

SIDE = 960


@pytest.fixture(scope="module")
def engine(load):
    return load("rapidocr")


def read(engine, image, **params):
    return engine.predict([image], [RapidOcrParams(**params)])[0]


def quads(*boxes):
    """Return upright boxes, left, top, right, bottom, as quads."""
    corners = [[[x1, y1], [x2, y1], [x2, y2], [x1, y2]] for x1, y1, x2, y2 in boxes]
    return np.array(corners, float).reshape(-1, 4, 2)


def dark_boxes(picture):
    """Find a quad for each dark bar of a picture, as a detector would."""
    import cv2

    shapes, _ = cv2.findContours(
        (picture[:, :, 0] < 128).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    found = [cv2.boundingRect(shape) for shape in shapes]
    return quads(*((x, y, x + w, y + h) for x, y, w, h in found if w > 3 and h > 3))


@pytest.mark.parametrize(
    ("height", "width", "large"),
    [
        (2339, 1654, False),  # a sheet at 200 dots per inch
        (1920, 2560, False),
        (3508, 2480, True),  # a sheet at 300 dots per inch
        (3024, 4032, True),  # a photograph of 12 megapixels
        (9000, 720, False),
        (7016, 4961, True),
        (7000, 7000, True),
        (3100, 16_000, True),
    ],
)
def test_which_pages_are_large(height, width, large):
    """Ordinary pages and long ones are not searched in tiles."""
    assert tiles.is_large(height, width, SIDE) is large


@pytest.mark.parametrize(
    ("height", "width"),
    [(4100, 4100), (7000, 7000), (7016, 4961), (3100, 16_000), (13_000, 13_000)],
)
def test_tiles_are_few_and_show_more(height, width):
    """A page of any size has a bounded number of tiles, each far smaller than the page."""
    size = tiles.tile_size(height, width, SIDE)
    count = len(strips.spans(height, size)) * len(strips.spans(width, size))
    assert 4 <= count <= tiles.MAX_TILES
    assert size * 1.8 <= max(height, width)


@pytest.mark.parametrize("sideways", [False, True])
@pytest.mark.parametrize("length", [50, 170, 700])
def test_each_line_is_found_once(sideways, length):
    """Lines at, across and through the borders of tiles count once and wholly."""
    places = [
        (x, y, x + length, y + 9)
        for y in range(5, 1480, 31)
        for x in range(11 + y % 13, 1480 - length, length + 20)
    ]
    page = np.full((1500, 1500, 3), 255, np.uint8)
    for left, top, right, bottom in places:
        page[top:bottom, left:right] = 0
    if sideways:
        places = [(top, left, bottom, right) for left, top, right, bottom in places]
        page = page.transpose(1, 0, 2)
    calls = []

    def find(picture):
        calls.append(picture.shape)
        return dark_boxes(picture)

    found = tiles.find_lines(page, find, 240)
    assert sorted(map(tuple, found[:, [0, 2]].reshape(-1, 4).round().astype(int).tolist())) == (
        sorted(places)
    )
    assert 4 <= len(calls) <= tiles.MAX_TILES


def test_only_tiles_that_are_not_blank_are_searched():
    """A page with one word costs one run of the detector, or a few at a border."""
    page = np.full((5000, 5000, 3), 255, np.uint8)
    page[100:130, 100:300] = 0
    calls = []

    def find(picture):
        calls.append(picture.shape)
        return dark_boxes(picture)

    assert len(tiles.find_lines(page, find, SIDE)) == 1
    assert len(calls) == 1


WHOLE = quads((0, 0, 1000, 100))
TWO_LINES = quads((0, 5, 950, 45), (0, 55, 950, 95))


@pytest.mark.parametrize(
    ("in_tiles", "score", "expected"),
    [
        (quads(), 0.6, ([0], [])),  # nothing better is known
        (quads((0, 0, 980, 90)), 0.95, ([0], [])),
        (quads((0, 0, 400, 90), (450, 0, 980, 90)), 0.95, ([0], [])),
        (quads((0, 0, 980, 90)), 0.6, ([], [0])),  # read again, at full size
        (quads((0, 200, 500, 240)), 0.95, ([0], [0])),
        (TWO_LINES, 0.95, ([], [0, 1])),  # small print that looked like one line
        (quads((10, 10, 40, 40)), 0.95, ([0], [])),  # a dot of the line
        (quads((10, 10, 40, 40)), 0.6, ([0], [])),
        (quads((0, 5, 180, 95)), 0.6, ([0], [])),  # its first word
        (quads((0, 0, 400, 90), (450, 0, 980, 90)), 0.6, ([], [0, 1])),
    ],
)
def test_lines_of_both_searches_count_once(in_tiles, score, expected):
    """What was read surely stays; what only tiles show, or show as several lines, is added."""
    assert tiles.merge(WHOLE, [score], in_tiles, 200.0) == expected


def test_an_unsure_line_of_large_letters_stays():
    """Tiles show parts of letters that are larger than they overlap."""
    assert tiles.merge(WHOLE, [0.6], quads((0, 0, 980, 90)), 99.0) == ([0], [])


def test_small_text_on_a_large_page_is_read(engine, write, page, error_rate):
    """Text across four tiles comes out after the headline, in order, and where it is."""
    picture = np.full((7000, 7000, 3), 248, np.uint8)
    picture[500:1300, 500:4500] = write("Harbour", size=(4000, 800), letters=500, at=(60, 60))
    picture[3000:3600, 2900:4100] = write(page, size=(1200, 600), letters=32)
    result = read(engine, picture)
    assert result.regions[0].text == "Harbour"
    assert [region.text.replace(" ", "") for region in result.regions[1:]] == [
        line.replace(" ", "") for line in page.splitlines()
    ]
    tops = [region.bbox[1] for region in result.regions[1:]]
    assert tops[0] == pytest.approx(3040, abs=24)
    assert tops == sorted(tops)
    for region in result.regions[1:]:
        assert region.bbox[0] == pytest.approx(2940, abs=16)
        assert region.bbox[3] - region.bbox[1] < 80


def test_a_label_in_a_photograph_is_read(engine, write, page, monkeypatch):
    """Letters of 18 pixels in a picture of 12 megapixels: seen as a whole they vanish."""
    noise = np.random.default_rng(0)
    picture = noise.integers(70, 130, (3024, 4032, 3), np.uint8)
    picture[1400:1760, 2300:2960] = write(page, size=(660, 360), letters=18)
    lines = [line.replace(" ", "") for line in page.splitlines()]

    def found():
        read_lines = [region.text.replace(" ", "") for region in read(engine, picture).regions]
        return [line for line in lines if line in read_lines]

    assert found() == lines
    monkeypatch.setattr(page_reader.tiles, "is_large", lambda *_: False)
    assert len(found()) < len(lines)


def test_large_letters_are_read_as_without_tiles(engine, write, monkeypatch):
    """A large page whose text is found as a whole keeps its answer to the last digit."""
    picture = np.full((4200, 4200, 3), 248, np.uint8)
    picture[1900:2400, 1000:3400] = write("Gate 7\nLoading", size=(2400, 500), letters=130)
    with_tiles = read(engine, picture)
    monkeypatch.setattr(page_reader.tiles, "is_large", lambda *_: False)
    assert with_tiles == read(engine, picture)
    assert [region.text for region in with_tiles.regions] == ["Gate 7", "Loading"]


def test_ordinary_pages_are_not_searched_in_tiles(engine, write, page, monkeypatch):
    """A page whose letters can be seen as a whole is searched once."""
    monkeypatch.setattr(PageReader, "_with_small", None)  # calling it would fail
    assert read(engine, write(page, size=(1000, 560), letters=28)).regions
