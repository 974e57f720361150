"""Boxes and reading order, on numbers."""

from __future__ import annotations

from mataserver_ocr.regions import bounding_box, reading_order


def test_a_slanted_quad_gets_its_upright_box_within_the_image():
    """The box encloses the corners and ends at the picture's edges."""
    quad = [(-3.0, 5.0), (50.0, -2.0), (52.0, 8.0), (0.0, 15.0)]
    assert bounding_box(quad, height=12, width=40) == (0.0, 0.0, 40.0, 12.0)
    assert bounding_box(quad, height=100, width=100) == (0.0, 0.0, 52.0, 15.0)


def test_a_quad_outside_the_image_has_no_box():
    """Nothing is reported where nothing of the picture lies."""
    assert bounding_box([(50.0, 5.0), (60.0, 9.0)], height=20, width=40) is None


def test_lines_are_read_by_rows_and_from_the_left():
    """Pieces of one row stay together although their centres differ a little."""
    middles = [(300.0, 48.0), (60.0, 120.0), (50.0, 52.0), (310.0, 118.0)]
    assert reading_order(middles, [30.0] * 4, [90.0] * 4) == [2, 0, 1, 3]


def test_rows_are_read_from_the_right_where_letters_are():
    """Arabic words of a row come from the right, rows still from the top."""
    middles = [(300.0, 48.0), (60.0, 120.0), (50.0, 52.0), (310.0, 118.0)]
    order = reading_order(middles, [30.0] * 4, [90.0] * 4, right_to_left=True)
    assert order == [0, 2, 3, 1]


def test_columns_are_read_from_the_right_where_letters_are():
    """The right one of two columns comes first."""
    middles = [(x, 20.0 + 24 * row) for row in range(5) for x in (160.0, 520.0)]
    left, right = list(range(0, 10, 2)), list(range(1, 10, 2))
    assert reading_order(middles, [20.0] * 10, [300.0] * 10) == left + right
    order = reading_order(middles, [20.0] * 10, [300.0] * 10, right_to_left=True)
    assert order == right + left


def test_close_small_lines_are_rows_of_their_own():
    """The height of the letters decides what a row is, not a fixed number of pixels."""
    middles = [(200.0, 10.0), (20.0, 19.0), (200.0, 28.0)]
    assert reading_order(middles, [9.0] * 3, [90.0] * 3) == [0, 1, 2]


def test_no_lines_have_no_order():
    """An empty picture is an empty list."""
    assert reading_order([], [], []) == []
