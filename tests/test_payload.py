"""What travels between a service and a model, what does not, and that nothing is unpickled."""

from __future__ import annotations

import dataclasses
import enum
import pickle
import typing
from collections import OrderedDict
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray  # noqa: TC002 - a dataclass declares it

import mataserver
from mataserver.engines import payload, plain_classes, wire
from mataserver.engines.plain_classes import NotSerializableError
from mataserver.results import Segment, SegmentResult

CHILDREN = {"engines/worker_main.py"}
"""The program of a child process that reads the server's assignment."""


class Kind(enum.Enum):
    """An enumeration."""

    ROUND = "round"


class Point(Struct, frozen=True, tag="point", rename="camel"):
    """A struct that msgspec would write in another way."""

    left_side: int
    note: str | UnsetType = UNSET


class Pair(typing.NamedTuple):
    """A named tuple."""

    first: Point
    data: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """A dataclass of everything."""

    kind: Kind
    points: list[Point]
    size: tuple[int, ...]
    pixels: NDArray[np.uint8] | None = None


@dataclasses.dataclass
class Empty:
    """A dataclass without fields."""


@dataclasses.dataclass
class Vague:
    """A dataclass whose types are not known when it runs."""

    pixels: Nothing  # noqa: F821


def travelled(value, find=plain_classes.resolve_trusted):
    """Return a value as it arrives."""
    return payload.unpack([bytes(part) for part in payload.pack(value).parts], find)


VALUES = [
    None,
    [True, 1, -(2**63), 2**64 - 1, 0.5, "text", b"bytes"],
    (1, (2, [3, (4,)])),
    {"a": {1, 2}, 3: frozenset({(1, 2)}), 0.5: {}},
    b"x" * 100_000,
    Point(1),
    Point(2, "told"),
    Pair(Point(1), b"y" * 9_000),
    Kind.ROUND,
    Empty(),
    [Shape(Kind.ROUND, [Point(1)], (1, 2))],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_arrives_as_the_same(value):
    """Tuples, sets and objects of plain classes come back as what they were."""
    found = travelled(value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(3),
        np.zeros((0, 3), np.float32),
        np.array(2.5),
        np.ones((70, 80), bool)[:, ::2],
        np.arange(4, dtype=">i2"),
        np.full((2, 2), 1j, np.complex64),
        np.float16([1, 2]),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_an_array_arrives_with_its_shape_and_type(array):
    """Whatever its numbers, strides and order of bytes."""
    found = travelled({"here": [array]})["here"][0]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert np.array_equal(found, array)


def test_arrays_and_results_in_objects():
    """An array in a field is an array there; a scalar of numpy arrives as a number."""
    pixels = np.arange(5_000).astype(np.uint8)
    assert np.array_equal(travelled(Shape(Kind.ROUND, [], (), pixels)).pixels, pixels)
    mask = np.ones((80, 80), bool)
    result = travelled(SegmentResult([Segment("a", 0.5, (0.0, 0.0, 1.0, 1.0), mask)]))
    assert np.array_equal(result.segments[0].mask, mask)
    assert travelled((np.float32(0.5), np.int64(3))) == (0.5, 3)


def test_the_memory_of_an_array_is_not_copied():
    """On the way out its own memory is sent, on the way in it lies where it was received."""
    array = np.zeros(1_000_000, np.uint8)
    packed = payload.pack([array, b"z" * 5_000])
    assert np.shares_memory(np.frombuffer(packed.parts[1], np.uint8), array)
    parts = [bytes(part) for part in packed.parts]
    found, _ = payload.unpack(parts, plain_classes.resolve_trusted)
    assert np.shares_memory(found, np.frombuffer(parts[1], np.uint8))


def nested(levels):
    """Return lists in lists."""
    found: list = []
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (object(), "object cannot be sent"),
        (OrderedDict(a=1), "OrderedDict cannot be sent"),
        ([Path("here")], "Path cannot be sent"),
        (len, "builtin_function_or_method cannot be sent"),
        ({(1, 2): 3}, "tuple cannot be sent between server and worker as the key"),
        (np.array(["text"]), "array of <U4 cannot be sent"),
        (np.array([object()]), "array of object cannot be sent"),
        (2**64, "number or text cannot be sent"),
        ("\ud800", "number or text cannot be sent"),
        (nested(100_000), "nested too deeply"),
        (Vague(None), "types cannot be resolved"),
        (Empty, "type cannot be sent"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isascii() else "",
)
def test_anything_else_is_refused_in_a_sentence(value, sentence):
    """Nothing is sent as something else than it is."""
    with pytest.raises(NotSerializableError, match=sentence):
        payload.pack(value)


def test_a_class_inside_a_function_is_refused():
    """Nobody else could find it."""

    @dataclasses.dataclass
    class Inner:
        x: int

    with pytest.raises(NotSerializableError, match="inside a function"):
        payload.pack(Inner(1))


def test_fields_hold_what_they_declare():
    """An object is made only of fields of its class, with the types that it declares."""
    for wrong in (
        {"first": "no point"},
        {"first": [1]},
        {"first": 1, "third": 2},
        {},
    ):
        body = msgspec.msgpack.encode([f"{__name__}:Pair", wrong])
        with pytest.raises(NotSerializableError, match="not a Pair"):
            payload.unpack(
                [msgspec.msgpack.encode(msgspec.msgpack.Ext(5, body))],
                plain_classes.resolve_trusted,
            )


def said(code, content):
    """Return what a worker may say: an extension of MessagePack."""
    return [msgspec.msgpack.encode(msgspec.msgpack.Ext(code, msgspec.msgpack.encode(content)))]


@pytest.mark.parametrize(
    "parts",
    [
        [pickle.dumps((1, 2))],
        [b""],
        [b"\xc1"],
        said(9, None),
        said(9, ["", 0]),
        said(1, 5),
        said(3, ["O", [1], 0]),
        said(3, ["<f8", [1 << 40], 0]),
        said(3, ["<f8", "shape", 0]),
        said(3, ["no type", [1], 0]),
        said(3, ["f4," * 500_000, [1], 0]),
        said(4, 7),
        said(5, ["os:system", "true"]),
        said(5, ["nowhere:Thing", {}]),
        said(5, [7, {}]),
    ],
    ids=lambda parts: repr(parts)[:60],
)
def test_what_nobody_packed_is_refused(parts):
    """Whatever a worker says, the server answers with an error of its own."""
    with pytest.raises(NotSerializableError):
        payload.unpack(parts, plain_classes.package_resolver("tests", frozenset()))


def test_a_worker_names_no_class_but_its_plugins():
    """The server takes those of the model's package, of results, and what the call has sent."""
    package = __name__.partition(".")[0]
    packed = payload.pack(Point(1))
    parts = [bytes(part) for part in packed.parts]
    assert payload.unpack(parts, plain_classes.package_resolver(package, frozenset())) == Point(1)
    assert payload.unpack(parts, plain_classes.package_resolver("other", packed.classes)) == Point(
        1
    )
    assert travelled(SegmentResult([]), plain_classes.package_resolver("other", frozenset()))
    with pytest.raises(NotSerializableError, match="not a class of its plugin"):
        payload.unpack(parts, plain_classes.package_resolver("other", frozenset()))


def test_nothing_is_imported_for_a_worker():
    """A class of a module that the server has not imported is refused."""
    find = plain_classes.package_resolver("xmlrpc", frozenset())
    with pytest.raises(NotSerializableError, match="not a class that is imported here"):
        find("xmlrpc.server:SimpleXMLRPCServer")


def test_large_bytes_travel_beside():
    """From the size on from which the shared memory takes them."""
    assert len(payload.pack(b"a" * (wire.SHARED_MIN_BYTES - 1)).parts) == 1
    assert (
        len(payload.pack((b"a" * wire.SHARED_MIN_BYTES, [bytearray(wire.SHARED_MIN_BYTES)])).parts)
        == 3
    )


def test_the_server_unpickles_nothing():
    """Only the programs of children read a pickle: the assignment that the server gives them."""
    root = Path(mataserver.__file__).parent
    sources = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*.py")}
    readers = {name for name, text in sources.items() if "pickle.load" in text}
    assert readers == CHILDREN
    assert not [name for name, text in sources.items() if "multiprocessing" in text]


def test_what_becomes_of_small_bytes_is_bounded():
    """Thirty megabytes of empty lists would be two gigabytes of the server."""
    empty = b"\xdd" + (30_000_000).to_bytes(4, "big") + b"\x90" * 30_000_000
    with pytest.raises(NotSerializableError, match="too large to be sent"):
        payload.unpack([empty], plain_classes.resolve_trusted)
    with pytest.raises(NotSerializableError, match="too large to be sent"):
        payload.pack([[]] * 5_000_000)
    large = [np.zeros(1_000_000), bytes(30_000_000), "x" * 30_000_000, [0.5] * 1_000_000]
    found = payload.unpack(payload.pack(large).parts, plain_classes.resolve_trusted)
    assert found[1:] == large[1:]


@pytest.mark.parametrize("number", [1, 0, -1])
def test_a_part_is_taken_once(number):
    """A few bytes do not become any number of copies of a large part."""
    named = msgspec.msgpack.Ext(4, msgspec.msgpack.encode(number))
    once = msgspec.msgpack.encode([named])
    if number > 0:
        assert payload.unpack([once, b"large"], plain_classes.resolve_trusted) == [b"large"]
    with pytest.raises(NotSerializableError):
        payload.unpack(
            [msgspec.msgpack.encode([named, named]), b"large"], plain_classes.resolve_trusted
        )
