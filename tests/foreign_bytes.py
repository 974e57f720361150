"""Bytes that strangers may send, and what every parser of such is held to."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mataserver import MataError

FEW = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@st.composite
def damaged(draw, *sound):
    """Give one of the sound texts with some bytes changed, cut out or put in; or any bytes."""
    data = bytearray(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = at + draw(st.integers(0, 8))
        data[at:end] = draw(st.binary(max_size=8))
    return bytes(data)


def parsed(function, *arguments):
    """Call a parser; what it refuses is a sentence for the client, with a status of its own."""
    refusal = None
    try:
        return function(*arguments)
    except MataError as error:
        refusal = error
    assert 400 <= refusal.status < 500, refusal.status
    assert refusal.detail
    assert "\n" not in refusal.detail
    return None
