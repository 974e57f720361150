"""A Triton configuration for an ONNX file that came without one: its inputs and outputs.

Only the graph's own lines are read, by the wire format of protobuf; weights are stepped over.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

from mataserver import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Span = tuple[int, int]

TYPES = {
    1: "TYPE_FP32",
    2: "TYPE_UINT8",
    3: "TYPE_INT8",
    4: "TYPE_UINT16",
    5: "TYPE_INT16",
    6: "TYPE_INT32",
    7: "TYPE_INT64",
    8: "TYPE_STRING",
    9: "TYPE_BOOL",
    10: "TYPE_FP16",
    11: "TYPE_FP64",
    12: "TYPE_UINT32",
    13: "TYPE_UINT64",
    16: "TYPE_BF16",
}
"""``TensorProto.DataType`` of ONNX to that of Triton."""
_GRAPH = 7  # of ModelProto
_NAME, _TYPE, _TENSOR = 1, 2, 1
_INITIALIZER, _INPUT, _OUTPUT = 5, 11, 12  # of GraphProto
_TENSOR_NAME = 8  # of TensorProto
_ELEMENT, _SHAPE, _DIMENSION, _VALUE = 1, 2, 1, 1
_LONGEST = 1_000_000


def config_of(path: Path, name: str) -> dict[str, Any]:
    """Return a configuration without batching. Raises ``BadRequest`` where none can be derived."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            graph = _one(data, (0, len(data)), _GRAPH)
            constants = {
                _text(data, _one(data, each, _TENSOR_NAME))
                for each in _all(data, graph, _INITIALIZER)
            }
            inputs = [_tensor(data, each) for each in _all(data, graph, _INPUT)]
            outputs = [_tensor(data, each) for each in _all(data, graph, _OUTPUT)]
    except (ValueError, IndexError, UnicodeDecodeError):
        raise BadRequest("model.onnx: not a readable ONNX file; send a config.pbtxt") from None
    inputs = [each for each in inputs if each["name"] not in constants]
    if not inputs or not outputs:
        raise BadRequest("model.onnx: it has no inputs or no outputs; send a config.pbtxt")
    return {"name": name, "backend": "onnxruntime", "input": inputs, "output": outputs}


def _tensor(data: mmap.mmap, span: Span) -> dict[str, Any]:
    name = _text(data, _one(data, span, _NAME))
    kind = _one(data, _one(data, span, _TYPE), _TENSOR)
    element = next((v for n, v in _fields(data, kind) if n == _ELEMENT and isinstance(v, int)), 0)
    shape = next((v for n, v in _fields(data, kind) if n == _SHAPE and isinstance(v, tuple)), None)
    if element not in TYPES or shape is None:
        raise BadRequest(f"The shape or the type of {name[:64]!r} is open; send a config.pbtxt")
    dims = [str(_dimension(data, each)) for each in _all(data, shape, _DIMENSION)]
    found: dict[str, Any] = {"name": name, "data_type": TYPES[element], "dims": dims or ["1"]}
    return found if dims else {**found, "reshape": {}}


def _dimension(data: mmap.mmap, span: Span) -> int:
    """Return a length, -1 for one that is open."""
    known = [v for n, v in _fields(data, span) if n == _VALUE and isinstance(v, int)]
    return known[0] if known and 0 < known[0] < 2**31 else -1


def _text(data: mmap.mmap, span: Span) -> str:
    begin, end = span
    if end - begin > _LONGEST:
        raise ValueError("too long for a name")
    return data[begin:end].decode()


def _one(data: mmap.mmap, span: Span, number: int) -> Span:
    """Return the last field of a number: as protobuf does. Raises ``ValueError`` without one."""
    found = list(_all(data, span, number))
    if not found:
        raise ValueError(f"no field {number}")
    return found[-1]


def _all(data: mmap.mmap, span: Span, number: int) -> Iterator[Span]:
    return (v for n, v in _fields(data, span) if n == number and isinstance(v, tuple))


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, int | Span]]:
    """Yield number and value of each field: a number, or where the bytes are.

    Raises ``ValueError`` or ``IndexError`` for what is no message.
    """
    at, end = span
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif kind == 2:
            size, at = _varint(data, at)
            if at + size > end:
                raise ValueError("a field goes beyond its message")
            yield key >> 3, (at, at + size)
            at += size
        elif kind in {1, 5}:
            at += 8 if kind == 1 else 4
        else:
            raise ValueError("an unknown kind of field")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number without end")
