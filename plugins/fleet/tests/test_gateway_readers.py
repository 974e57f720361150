"""What the gateway reads of an inference is what a Triton's own parsers read, or it is refused.

protobuf and RapidJSON are asked the same bytes: what one of them finds and the gateway does not
would pass what it is there to hold up.
"""

from __future__ import annotations

import asyncio
import contextlib

import rapidjson
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from tritonclient.grpc.service_pb2 import ModelInferRequest

from foreign_bytes import FEW
from mataserver import BadRequest
from mataserver_fleet.gateway import protobuf
from mataserver_fleet.gateway.bodies import BufferedBody
from mataserver_fleet.gateway.inspection import inspect_body

NAMES = ("sequence_id", "sequence_start", "sequence_end", "shared_memory_region", "priority")
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(value):
    """Return a number as protobuf has it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number, kind, payload):
    """Return a field: of a payload that is bytes, or the right number of them."""
    size = varint(len(payload)) if kind == BYTES else b""
    return varint(number << 3 | kind) + size + payload


def fields(*ways, most=3):
    """Give a few fields, one after the other."""
    return st.lists(st.one_of(*ways), max_size=most).map(b"".join)


def named(number, content):
    """Give a field that holds bytes."""
    return st.builds(field, st.just(number), st.just(BYTES), content)


odd = st.one_of(
    st.builds(field, st.integers(1, 7), st.just(VARINT), st.sampled_from([b"\x00", b"\x07"])),
    st.builds(field, st.integers(1, 7), st.just(FIXED32), st.sampled_from([b"cats", bytes(4)])),
    st.builds(field, st.integers(1, 7), st.just(FIXED64), st.just(bytes(8))),
    st.just(field(100, VARINT, b"\x07")),
)
value = fields(odd, named(3, st.sampled_from([b"", b"seven"])), most=2)
key = st.sampled_from([each.encode() for each in NAMES] + [b"sequence_\xe9"])
entry = fields(named(1, key), named(1, key), named(2, value), named(2, value), odd)
tensor = fields(named(1, st.just(b"x")), named(4, entry), named(2, entry), named(3, entry))
messages = fields(
    *(named(1, st.sampled_from([b"cats", b"dogs", b""])), named(2, st.sampled_from([b"1", b""]))),
    *(named(4, entry), named(5, tensor), named(6, tensor), odd),
    most=5,
)


def by_protobuf(data):
    """Return the model, version, sequence and its steps, and whether a region is named."""
    read = ModelInferRequest.FromString(data)
    told = {}
    for name, given_ in read.parameters.items():
        way = given_.WhichOneof("parameter_choice")
        told[name] = getattr(given_, way) if way else 0
    region = any("shared_memory_region" in t.parameters for t in (*read.inputs, *read.outputs))
    steps = [bool(told.get(each)) for each in ("sequence_start", "sequence_end")]
    sequence = told.get("sequence_id") or None
    if isinstance(sequence, int):
        sequence %= 1 << 64
    return read.model_name, read.model_version, sequence, steps if sequence else None, region


@FEW
@given(messages)
def test_messages(data):
    """Whatever protobuf reads of a message, the gateway has read the same, or refused it."""
    with contextlib.suppress(DecodeError, BadRequest):
        theirs = by_protobuf(data)
        asked, region = protobuf.requested_model(data, infer=True), protobuf.names_region(data)
        step = asked.step
        mine = (step.sequence, [step.start, step.end]) if step else (None, None)
        assert (asked.model, asked.version, *mine) == theirs[:4]
        assert region or not theirs[4]


class Pairs(rapidjson.Decoder):
    """Reads objects as their pairs: a Triton takes the first of two of one name."""

    def start_object(self):
        """Have pairs be gathered."""
        return []

    def end_object(self, pairs):
        """Return the object."""
        return Json(pairs)


class Json(list):
    """The pairs of an object."""

    def first(self, name):
        """Return the first value of a name, or None."""
        return next((value for key, value in self if key == name), None)


def by_rapidjson(text):
    """Return the sequence, and whether a region is named."""
    read = Pairs(number_mode=rapidjson.NM_NAN)(text.decode())
    own = read.first("parameters")
    sequence = own.first("sequence_id") if isinstance(own, Json) else None
    regions = [
        pair[0] == "shared_memory_region"
        for tensor in [*(read.first("inputs") or ()), *(read.first("outputs") or ())]
        for pair in tensor.first("parameters") or ()
    ]
    wanted = isinstance(sequence, (int, str)) and not isinstance(sequence, bool)
    return sequence if wanted and sequence else None, any(regions)


def spelt(name):
    """Give a name, or one of its letters as an escape."""
    escapes = [
        f"{name[:at]}\\u{ord(name[at]):04x}{name[at + 1 :]}" for at in range(0, len(name), 3)
    ]
    return st.sampled_from([name, name, *escapes])


def objects(*pairs, most=3):
    """Give an object of a few pairs, of which some may have one name."""
    several = st.lists(st.one_of(*pairs), max_size=most)
    return several.map(lambda each: "{" + ",".join(f'"{k}" : {v}' for k, v in each) + "}")


numbers = st.sampled_from(
    ["7", "0", '"a"', '""', "7.0", "NaN", "-7", "18446744073709551616", "[7]"]
)
of_sequences = objects(
    st.tuples(spelt("sequence_id"), numbers),
    st.tuples(spelt("sequence_start"), st.sampled_from(["true", "1"])),
)
of_tensors = objects(
    st.tuples(spelt("shared_memory_region"), st.just('"r"')),
    st.tuples(spelt("sequence_id"), numbers),
)
data = st.sampled_from(["[1,NaN]", '["shared_memory_region"]', '["\\"sequence_id\\":"]'])
tensors = objects(
    st.tuples(st.just("data"), data), st.tuples(st.just("parameters"), of_tensors)
).map("[{}]".format)
bodies = objects(
    st.tuples(spelt("parameters"), of_sequences | st.just("5")),
    st.tuples(spelt("inputs"), tensors),
    st.tuples(spelt("outputs"), tensors),
    most=4,
)


class Boundless:
    """A share of a budget that has no end."""

    def take(self, count):
        """Hold some bytes."""

    def give_back(self):
        """Hold none."""


@FEW
@given(bodies, st.integers(1, 80))
def test_json(text, size):
    """Whatever RapidJSON finds in a body, the gateway has found the same, or refused it.

    It may find a sequence where there are two ``parameters``: the Triton then has none.
    """
    raw = text.encode()
    whole = BufferedBody([raw[at : at + size] for at in range(0, len(raw), size)], len(raw))
    nothing = CIMultiDictProxy(CIMultiDict())
    sequence, region = by_rapidjson(raw)
    with contextlib.suppress(BadRequest):
        step = asyncio.run(inspect_body(whole, nothing, Boundless(), regions=False))
        assert not region
        assert sequence in {None, step and step.sequence}
