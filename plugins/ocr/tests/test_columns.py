"""Columns: told from rows by how their lines fill the space, and read one after the other."""

from __future__ import annotations

import numpy as np
import pytest

from mataserver_ocr.columns import Line, reading_groups

HEIGHT, PITCH, LENGTH = 20.0, 30.0, 300.0


def column(left, count, *, top=0.0, length=LENGTH, ragged=0.0):
    """Return lines below each other; every other one ends a share ``ragged`` earlier."""
    return [
        Line(left, left + length * (1 - ragged * (i % 2)), top + PITCH * i, HEIGHT)
        for i in range(count)
    ]


def across(top, left=0.0, right=900.0):
    """Return a line over the whole page."""
    return Line(left, right, top, HEIGHT)


def read(*parts):
    """Return in which order parts of a page, given as lists of lines, are read: their numbers.

    The lines are given in the order of their rows, as a detector tells them.
    """
    owned = sorted(
        ((line, number) for number, lines in enumerate(parts) for line in lines),
        key=lambda each: (each[0].middle, each[0].left),
    )
    groups = reading_groups([line for line, _ in owned])
    assert sorted(index for group in groups for index in group) == list(range(len(owned)))
    return [sorted({owned[index][1] for index in group}) for group in groups]


@pytest.mark.parametrize("ragged", [0.0, 0.25])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_columns_are_read_from_the_left(count, ragged):
    """Each is a group of its own, also where one is shorter than the others."""
    columns = [column(340.0 * i, 8 - i, ragged=ragged) for i in range(count)]
    assert read(*columns) == [[i] for i in range(count)]


def test_what_reaches_across_parts_the_columns():
    """A title is read first, a heading between what is above and below it, a footer last."""
    page = (
        [across(0.0)],
        column(0.0, 4, top=60.0),
        column(340.0, 4, top=60.0),
        [across(200.0, 100.0, 500.0)],
        column(0.0, 5, top=260.0),
        column(340.0, 3, top=260.0),
        [across(500.0, 250.0, 400.0)],
    )
    assert read(*page) == [[0], [1], [2], [3], [4], [5], [6]]


def test_short_lines_end_paragraphs():
    """Half the lines of a column are long: titles and ends of paragraphs may be short."""
    left, right = (
        [*column(x, 3), *column(x, 1, top=90.0, length=60.0), *column(x, 3, top=130.0)]
        for x in (0.0, 340.0)
    )
    assert read(left, right) == [[0], [1]]


@pytest.mark.parametrize(
    "cells",
    [
        [(0.0, 80.0), (340.0, 60.0)],  # names and prices
        [(0.0, LENGTH), (340.0, 60.0)],  # what it is, and a price
        [(0.0, 60.0), (340.0, LENGTH)],  # numbers, and what they are
        [(0.0, 100.0), (200.0, 100.0), (400.0, 100.0)],
        [(0.0, 60.0), (200.0, LENGTH), (600.0, 60.0)],
    ],
)
def test_cells_of_tables_stay_rows(cells):
    """A row belongs together where any of its cells is short."""
    page = [column(left, 8, length=length) for left, length in cells]
    assert read(*page) == [list(range(len(cells)))]


def test_cells_of_any_length_stay_rows():
    """Long cells beside each other are no columns where most of them leave much room."""
    page = []
    for left in (0.0, 700.0):
        lengths = (600.0, 210.0, 240.0, 200.0, 300.0, 190.0)
        page.append([Line(left, left + each, PITCH * i, HEIGHT) for i, each in enumerate(lengths)])
    assert read(*page) == [[0, 1]]


def test_two_lines_are_no_column():
    """Two rows of two long pieces say nothing of columns."""
    assert read(column(0.0, 2), column(340.0, 2)) == [[0, 1]]


def test_pieces_of_long_lines_stay_rows():
    """A line that was found in pieces is cut at another place than the one below it."""
    cuts = (300.0, 345.0, 270.0, 330.0, 290.0, 315.0)
    pieces = [
        [Line(a, b, PITCH * i, HEIGHT) for i, cut in enumerate(cuts) for a, b in [ends(cut)]]
        for ends in (lambda cut: (0.0, cut - 8), lambda cut: (cut + 8, 640.0))
    ]
    assert read(*pieces) == [[0, 1]]


def test_a_page_of_thousands_of_lines_is_parted_in_time():
    """Whatever a picture shows, each place where columns may begin is looked at a few times."""
    random = np.random.default_rng(1)
    lines = [
        Line(x, x + length, y, HEIGHT)
        for x, y, length in zip(
            random.uniform(0, 3000, 3000),
            random.uniform(0, 9000, 3000),
            random.uniform(20, 600, 3000),
            strict=True,
        )
    ]
    assert sum(map(len, reading_groups(lines))) == len(lines)


def test_no_lines_have_no_columns():
    """An empty page is one empty group."""
    assert reading_groups([]) == [[]]


@pytest.mark.parametrize("width", [1, 2])
def test_a_form_of_long_cells_is_read_in_rows(width):
    """Each label has its value beside it, and rows are apart; as close as text they are text."""
    cells = [
        [[Line(340.0 * i, 340.0 * i + LENGTH, pitch * row, HEIGHT) for row in range(6)]
         for i in range(width + 1)]
        for pitch in (2.5 * HEIGHT, PITCH)
    ]  # fmt: skip
    assert read(*cells[0]) == [list(range(width + 1))]
    assert read(*cells[1]) == [[i] for i in range(width + 1)]
