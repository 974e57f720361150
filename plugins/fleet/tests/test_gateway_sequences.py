"""What is remembered of sequences."""

from __future__ import annotations

from mataserver_fleet.gateway.sequences import Pin, Sequences, Step
from mataserver_fleet.gateway.snapshot import Target


def test_what_is_remembered():
    """A sequence is bound until its end, for an hour, and so many of them."""
    now = [0.0]
    sequences = Sequences(lambda: now[0], most=2)
    pin, going = Pin(Target("a", 1), "3"), Step(1, start=False, end=False)
    sequences.bind("app", "m", Step(1, start=True, end=False), pin)
    assert sequences.find("app", "m", going) == pin
    assert sequences.find("other", "m", going) is None
    assert sequences.find("app", "m", Step(1, start=True, end=False)) is None
    now[0] = 3601.0
    assert sequences.find("app", "m", going) is None
    for number in (2, 3, 4):
        sequences.bind("app", "m", Step(number, start=True, end=False), pin)
    assert [sequences.find("app", "m", Step(n, start=False, end=False)) for n in (2, 3)] == [
        None,
        pin,
    ]
    sequences.bind("app", "m", Step(3, start=False, end=True), pin)
    assert sequences.find("app", "m", Step(3, start=False, end=False)) is None
