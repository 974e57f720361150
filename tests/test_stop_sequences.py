"""Stop sequences in a text that comes in pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mataserver import StopSequences

FEW = st.text("ab", max_size=12)


def cut(text, cuts):
    """Return ``text`` in pieces that end at ``cuts``."""
    ends = sorted({0, len(text), *(at for at in cuts if at <= len(text))})
    return [text[a:b] for a, b in itertools.pairwise(ends)]


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    FEW, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.sets(st.integers(0, 12))
)
def test_the_text_ends_before_the_first_stop(text, sequences, cuts):
    """However a text is cut, what is given out is the text before the earliest finished stop."""
    stops = StopSequences(tuple(sequences))
    given_out = "".join([*map(stops.add, cut(text, cuts)), stops.rest()])
    letters = StopSequences(tuple(sequences))
    assert given_out == "".join([*map(letters.add, text), letters.rest()])
    found = [text.find(each) for each in sequences if each in text]
    assert stops.reached is bool(found)
    if not found:
        assert given_out == text
    else:
        assert text.startswith(given_out)
        assert not any(each in given_out for each in sequences)
        assert any(text[len(given_out) :].startswith(each) for each in sequences)


@pytest.mark.parametrize(
    ("pieces", "given_out"),
    [
        (["one ", "STO", "P two"], ["one ", "", ""]),
        (["one S", "O", "S"], ["one ", "SO", ""]),
        (["oneSTOPtwo", "more"], ["one", ""]),
    ],
)
def test_no_more_is_held_back_than_may_be_a_stop(pieces, given_out):
    """A piece is given out at once, but for an end that may become a stop sequence."""
    stops = StopSequences(("STOP",))
    assert [stops.add(piece) for piece in pieces] == given_out


def test_what_was_held_back_comes_at_the_end():
    """The beginning of a stop that never came belongs to the text."""
    stops = StopSequences(("STOP",))
    assert (stops.add("one ST"), stops.rest()) == ("one ", "ST")
