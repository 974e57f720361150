"""Bytes that strangers may send, and what every parser of such is held to."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, example, settings
from hypothesis import strategies as st

from mataserver import MataError

FEW = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
CORPUS = Path(__file__).parent / "corpus"
"""What parsers are asked besides: bytes that such a parser may take wrongly, a folder for each."""


def kept(of):
    """Return what is in a folder of the corpus."""
    return [each.read_bytes() for each in sorted((CORPUS / of).iterdir())]


def seeded(of, **others):
    """Have a test asked each of a folder of the corpus; ``others`` may be made of the bytes."""

    def with_examples(test):
        for data in kept(of):
            made = {name: each(data) if callable(each) else each for name, each in others.items()}
            test = example(data=data, **made)(test)
        return test

    return with_examples


@st.composite
def damaged(draw, *sound, of=None):
    """Give some bytes with a few of them changed, cut out or put in.

    ``sound`` are those that are well; ``of`` is the folder of the corpus that has others, if any.
    """
    data = bytearray(draw(st.sampled_from([*sound, *(kept(of) if of else ())])))
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
