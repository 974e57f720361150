"""What is remembered of sequences, and that nobody goes on with another consumer's."""

from __future__ import annotations

import pytest

from mataserver_fleet.gateway.sequences import Destination, Sequences, SequenceStep, SequenceTaken
from mataserver_fleet.gateway.snapshot import Target

PIN = Destination(Target("a", 1), "3")
ANNA, BEN = 1, 2


def step(number, *, start=False, end=False):
    """Return a request of a sequence."""
    return SequenceStep(number, start, end)


def test_what_is_remembered():
    """A sequence is bound until its end, for an hour, and so many of them."""
    now = [0.0]
    sequences = Sequences(lambda: now[0], limit=2)
    sequences.bind("m", step(1, start=True), PIN, ANNA)
    assert sequences.find("m", step(1), ANNA) == PIN
    assert sequences.find("other", step(1), ANNA) is None
    now[0] = 3601.0
    assert sequences.find("m", step(1), ANNA) is None
    for number in (2, 3, 4):
        sequences.bind("m", step(number, start=True), PIN, ANNA)
    assert [sequences.find("m", step(n), ANNA) for n in (2, 3)] == [None, PIN]
    assert sequences.find("m", step(3, start=True), ANNA) is None
    sequences.bind("m", step(3, end=True), PIN, ANNA)
    assert sequences.find("m", step(3), ANNA) is None


def test_it_is_whose_it_was_begun_by():
    """From before its first answer, until its end or until it was left alone for long."""
    now = [0.0]
    sequences = Sequences(lambda: now[0])
    assert sequences.find("m", step(7, start=True), ANNA) is None
    for given in (step(7), step(7, start=True), step(7, end=True)):
        with pytest.raises(SequenceTaken):
            sequences.find("m", given, BEN)
        with pytest.raises(SequenceTaken):
            sequences.bind("m", given, PIN, BEN)
    sequences.bind("m", step(7, start=True), PIN, ANNA)
    assert sequences.find("m", step(7), ANNA) == PIN
    sequences.bind("m", step(7, end=True), PIN, ANNA)
    assert sequences.find("m", step(7, start=True), BEN) is None
    now[0] = 601.0
    assert sequences.find("m", step(7, start=True), ANNA) is None


def test_many_of_one_push_out_no_others():
    """Who has the most is forgotten first."""
    sequences = Sequences(lambda: 0.0, limit=10)
    sequences.bind("m", step("anna's", start=True), PIN, ANNA)
    for number in range(50):
        sequences.bind("m", step(number, start=True), PIN, BEN)
    assert sequences.find("m", step("anna's"), ANNA) == PIN
    assert sequences.find("m", step(49), BEN) == PIN
    assert sequences.find("m", step(0), BEN) is None
