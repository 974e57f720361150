"""Pages far longer than the detector takes: with a made-up detector, and read by RapidOCR."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from mataserver import BadRequest
from mataserver_ocr import quads, strips
from mataserver_ocr.rapidocr import RapidOcrParams

pytestmark = pytest.mark.long

SIDE = 960


@pytest.fixture(scope="module")
def engine(load):
    return load("rapidocr")


def read(engine, image):
    return engine.predict([image], [RapidOcrParams()])[0]


def bars(picture):
    """Find what is dark, as a detector would: a quad for each dark bar, in the picture's pixels."""
    import cv2

    dark = (picture.max(axis=2) < 128).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(dark)
    boxes = [(x, y, x + w, y + h) for x, y, w, h, _ in stats[1:].tolist() if w > 3 and h > 3]
    quads = [[[l, t], [r, t], [r, b], [l, b]] for l, t, r, b in boxes]  # noqa: E741
    return np.array(quads, float).reshape(-1, 4, 2)


def boxes(found):
    """Return the upright boxes around quads, sorted, in whole pixels."""
    both = np.concatenate([found.min(axis=1), found.max(axis=1)], axis=1)
    return sorted(tuple(box) for box in both.round().astype(int).tolist())


def drawn(height, width, places):
    """A white page with a dark bar at each place: left, top, right, bottom."""
    page = np.full((height, width, 3), 255, np.uint8)
    for left, top, right, bottom in places:
        page[top:bottom, left:right] = 0
    return page


@pytest.mark.parametrize("long", [2000, 4321, 9000, 60_000])
def test_strips_cover_a_page_and_overlap(long):
    """Every row is in a strip, none is longer than it may be, neighbours share an eighth."""
    spans = strips.spans(long, 1080)
    assert (spans[0][0], spans[-1][1]) == (0, long)
    assert all(end - start <= 1080 for start, end in spans)
    assert all(
        before[1] - after[0] >= 1080 * strips.OVERLAP - 2
        for before, after in itertools.pairwise(spans)
    )


@pytest.mark.parametrize(
    ("height", "width", "longest"),
    [(1754, 1240, 1754), (2400, 1080, 2400), (9000, 720, 1080), (700, 6000, 1050), (900, 90, 900)],
)
def test_only_pages_far_longer_than_wide_are_cut(height, width, longest):
    """A sheet, a telephone's screen and a small strip stay whole."""
    assert strips.strip_length(height, width, SIDE) == longest


@pytest.mark.parametrize("tall", [True, False])
@pytest.mark.parametrize("pitch", [31, 47, 60, 101])
def test_each_line_is_found_once(tall, pitch):
    """Lines that a border cuts, and those that two strips see, count once and wholly."""
    places = [(30, y, 400, y + 20) for y in range(7, 8900, pitch)]
    page = drawn(9000, 720, places)
    if not tall:
        places = [(top, left, bottom, right) for left, top, right, bottom in places]
        page = page.transpose(1, 0, 2)
    assert boxes(strips.find_lines(page, bars, SIDE)) == sorted(places)


@pytest.mark.parametrize("tall", [True, False])
def test_lines_longer_than_a_strip_are_joined(tall):
    """Lines along the page, through many strips, are one each; those beside them stay apart."""
    places = [(100, 50, 5900, 80), (100, 100, 3000, 130), (3100, 100, 5900, 130)]
    page = drawn(700, 6000, places)
    if tall:
        places = [(top, left, bottom, right) for left, top, right, bottom in places]
        page = page.transpose(1, 0, 2)
    assert boxes(strips.find_lines(page, bars, SIDE)) == sorted(places)


def test_lines_that_end_where_a_strip_begins_are_not_joined():
    """They only touch what both strips show: OpenCV takes that for an endless intersection."""
    _, (first, _), (second, end), *_ = strips.spans(6000, strips.strip_length(700, 6000, SIDE))
    places = [(first - 100, y, second, y + 20) for y in (100, 200, 300)]
    places += [(second + 30, y, end + 100, y + 20) for y in (100, 200, 300)]
    found = strips.find_lines(drawn(700, 6000, places), bars, SIDE)
    assert boxes(found) == sorted(places)


@pytest.mark.parametrize(
    ("box", "area"),
    [((9, 2, 20, 5), 0), ((0, 9, 9, 20), 0), ((2, 0, 6, 9), 36), ((0, 0, 9, 9), 81)],
)
def test_quads_that_share_an_edge_intersect_exactly(box, area):
    """The intersection of a box with one that touches it is empty, also at a common edge."""
    one, other = (
        np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float)
        for x1, y1, x2, y2 in ((0, 0, 9, 9), box)
    )
    assert quads.intersection_area(one, other) == pytest.approx(area)
    assert quads.intersection_area(other, one) == pytest.approx(area)


def test_large_letters_are_found_on_the_whole_page():
    """What is higher than strips overlap is one line, with the small print beside it."""
    places = [(20, 700, 700, 1100), (20, 1150, 300, 1170), (20, 3000, 700, 3500)]
    found = sorted(
        boxes(strips.find_lines(drawn(7000, 720, places), bars, SIDE)), key=lambda b: b[1]
    )
    assert np.abs(np.array(found) - np.array(places)).max() <= 8


def test_blurred_small_print_is_no_large_line():
    """What runs together on the scaled-down page does not hide its lines."""
    places = [(30, y, 600, y + 20) for y in range(1000, 1600, 30)]
    whole = np.array([[[0, 100], [75, 100], [75, 200], [0, 200]]], float)

    def find(picture):
        return whole if picture.shape[0] == SIDE else bars(picture)

    found = boxes(strips.find_lines(drawn(9000, 720, places), find, SIDE))
    assert found == sorted(places)


@pytest.mark.parametrize("tall", [True, False])
def test_a_page_of_too_many_strips_is_refused(tall):
    """A small file may be a page of any length: all its strips would be one step of the worker."""
    longest = strips.MAX_STRIPS * SIDE * 7 // 8
    page = np.zeros((longest, 2, 3), np.uint8)
    page[::2] = 255
    calls = []

    def search(picture):
        calls.append(picture.shape)
        return bars(picture)

    strips.find_lines(page if tall else page.swapaxes(0, 1), search, SIDE)
    assert len(calls) == strips.MAX_STRIPS + 1  # and the page as a whole
    calls.clear()
    longer = np.concatenate([page, page[:SIDE]])
    with pytest.raises(BadRequest, match="pixels are too long for their width"):
        strips.find_lines(longer if tall else longer.swapaxes(0, 1), search, SIDE)
    assert not calls


def test_an_empty_page_is_not_searched_in_strips():
    """Strips of one colour cost nothing, however many there are."""
    looked = []

    def find(picture):
        looked.append(picture.shape)
        return np.empty((0, 4, 2))

    assert len(strips.find_lines(np.full((60_000, 100, 3), 255, np.uint8), find, SIDE)) == 0
    assert len(looked) == 1  # the whole page, scaled down


def entries(write, *, height, width, pitch, letters, start):
    """A page of numbered lines, and what they say."""
    lines = [f"Entry {n:03d} total {n * 7}.50" for n in range((height - start) // pitch)]
    pages = np.full((height, width, 3), 248, np.uint8)
    for n, line in enumerate(lines):
        row = write(line, size=(width, pitch), letters=letters, at=(20, 2))
        pages[start + n * pitch :][: len(row)] = row
    return pages, lines


@pytest.mark.parametrize("quarters", range(4))
def test_a_tall_page_is_read_whichever_way_it_lies(engine, write, quarters):
    """Every line of a long list comes out once and in order, also when the list is turned."""
    page, lines = entries(write, height=2200, width=600, pitch=47, letters=26, start=13)
    result = read(engine, np.ascontiguousarray(np.rot90(page, quarters)))
    assert [region.text.replace(" ", "") for region in result.regions] == [
        line.replace(" ", "") for line in lines
    ]


def test_a_page_of_720_by_9000_is_read(engine, write):
    """All 149 lines of a very long screenshot are there, each once."""
    page, lines = entries(write, height=9000, width=720, pitch=60, letters=24, start=20)
    told = Counter(region.text.replace(" ", "") for region in read(engine, page).regions)
    assert told == Counter(line.replace(" ", "") for line in lines)
    assert len(lines) == 149


def test_a_panorama_is_read_where_it_is(engine, write):
    """Rows of signs along a wide picture have their boxes in its own pixels."""
    picture = np.full((400, 4800, 3), 248, np.uint8)
    for n, x in enumerate(range(0, 4800, 300)):
        picture[100:200, x : x + 300] = write(f"Dock {n:02d}", size=(300, 100), at=(40, 30))
    result = read(engine, picture)
    assert [region.text for region in result.regions] == [f"Dock {n:02d}" for n in range(16)]
    for n, region in enumerate(result.regions):
        assert region.bbox[0] == pytest.approx(n * 300 + 42, abs=12)
        assert region.bbox[1] == pytest.approx(136, abs=16)


def test_a_line_longer_than_strips_is_read(engine, write, page, error_rate):
    """A ticker of one line is read in pieces that are cut between words."""
    text = " ".join(page.split())
    result = read(engine, write(text, size=(6400, 64), letters=28, at=(30, 14)))
    assert error_rate(result.text.replace("\n", " "), text) <= 0.01
