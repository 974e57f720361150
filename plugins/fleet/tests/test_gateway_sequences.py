"""What a body says of a sequence, wherever it stands and however the body came."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from mataserver_fleet.gateway.sequences import Pin, Sequences, Step, step_of
from mataserver_fleet.gateway.snapshot import Target

BODY = json.dumps(
    {
        "id": "x",
        "inputs": [{"data": [1] * 50}],
        "parameters": {"sequence_id": 7, "sequence_end": True},
    }
).encode()
STEP = Step(7, start=False, end=True)


@pytest.mark.parametrize("size", [13, 40, 1000])
def test_however_it_is_cut(size):
    """The seams of a body that came in pieces hide nothing."""
    pieces = [BODY[i : i + size] for i in range(0, len(BODY), size)]
    assert step_of(pieces, {}) == STEP


@pytest.mark.parametrize(
    ("pack", "encoding"),
    [(gzip.compress, "gzip"), (gzip.compress, "X-GZIP"), (zlib.compress, "deflate")],
)
def test_compressed(pack, encoding):
    """A compressed body is looked into; it goes on as it is."""
    assert step_of([pack(BODY)], {"Content-Encoding": encoding}) == STEP


def test_behind_its_json_are_tensors():
    """Bytes behind the JSON are no part of it."""
    length = {"Inference-Header-Content-Length": str(len(BODY))}
    assert step_of([BODY + b"\0" * 1000, b"\0" * 1000], length) == STEP
    none = b'{"inputs":[]}'
    other = {"Inference-Header-Content-Length": str(len(none))}
    assert step_of([none + b'{"parameters":{"sequence_id":1}}'], other) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"parameters":{"sequence_id":0}}',
        b'{"parameters":{"sequence_id":""}}',
        b'{"parameters":null,"a":"sequence_id"}',
        b'{"inputs":[{"parameters":{"sequence_id":1}}]}',
        b'{"sequence_id":1',
        b'{"parameters":{"sequence_id":[1]}}',
    ],
)
def test_what_is_of_no_sequence(body):
    """Neither no number, nor one elsewhere, nor what is no JSON, which the server tells of."""
    assert step_of([body], {}) is None
    assert step_of([gzip.compress(body)[:-9]], {"Content-Encoding": "gzip"}) is None


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
