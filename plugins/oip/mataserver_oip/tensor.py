"""Tensors of the Open Inference Protocol: elements in row-major order, and how they are written.

Numbers are kept in the protocol's binary form, little-endian as on every machine that this server
runs on, and text and encoded images (``BYTES``) as a list of elements.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from mataserver import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_CODES = {"UINT8": "B", "INT32": "i", "INT64": "q", "FP32": "f"}
_LENGTH = 4  # bytes of the length before each element of BYTES
MAX_DIMENSIONS = 8
MAX_VALUES = 4_000_000
"""How many numbers are read from a list or written as one: that holds the event loop up."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named tensor. ``data`` holds an element of ``BYTES`` each, or the bytes of numbers."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview | list[bytes]


def numbers(name: str, datatype: str, shape: Sequence[int], values: Iterable[float]) -> Tensor:
    """Return a tensor of numbers that are in row-major order."""
    return Tensor(name, datatype, tuple(shape), array(_CODES[datatype], values).tobytes())


def elements(name: str, shape: Sequence[int]) -> int:
    """Return how many elements a tensor of that shape has. Raises ``BadRequest`` for no shape."""
    if len(shape) > MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise BadRequest(f"input '{name}': the shape must be at most 8 numbers from 0")
    return math.prod(shape)


def from_binary(
    name: str, datatype: str, shape: Sequence[int], data: memoryview, most: int
) -> Tensor:
    """Read a tensor's binary form. ``most`` is how many elements of ``BYTES`` it may have.

    Raises ``BadRequest`` when the data do not fill the shape exactly.
    """
    count = elements(name, shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, tuple(shape), _split(name, data, count, most))
    size = count * array(code(name, datatype)).itemsize
    if len(data) != size:
        raise BadRequest(
            f"input '{name}': {datatype} {list(shape)} takes {size} bytes, got {len(data)}"
        )
    return Tensor(name, datatype, tuple(shape), data)


def from_values(name: str, datatype: str, shape: Sequence[int], values: list[Any]) -> Tensor:
    """Read a tensor from a list, flat or nested as the shape is, dimensions of 1 aside.

    An element of ``BYTES`` is text or bytes. Raises ``BadRequest`` for elements of another type and
    when they do not fill the shape.
    """
    count = elements(name, shape)
    flat, nesting = _flat(name, values)
    if datatype != "BYTES":
        code(name, datatype)
        if max(count, len(flat)) > MAX_VALUES:
            raise BadRequest(f"input '{name}': over {MAX_VALUES} numbers: send them as bytes")
    if len(flat) != count:
        raise BadRequest(
            f"input '{name}': the shape {list(shape)} has {count} elements, got {len(flat)}"
        )
    if count and len(nesting) > 1 and _longer_sides(nesting) != _longer_sides(shape):
        raise BadRequest(f"input '{name}': the data are nested as {nesting[:9]}, not {list(shape)}")
    try:
        if datatype == "BYTES":
            return Tensor(name, datatype, tuple(shape), [_octets(value) for value in flat])
        return numbers(name, datatype, shape, _without_truths(flat))
    except (TypeError, ValueError, OverflowError):
        raise BadRequest(f"input '{name}': the data are not {datatype}") from None


def to_binary(tensor: Tensor) -> bytes | memoryview:
    """Return the binary form."""
    if not isinstance(tensor.data, list):
        return tensor.data
    return b"".join(
        part for each in tensor.data for part in (len(each).to_bytes(_LENGTH, "little"), each)
    )


def to_values(tensor: Tensor) -> list[Any]:
    """Return the elements as a flat list; those of ``BYTES`` as text.

    Raises ``BadRequest`` for numbers that are too many for that.
    """
    if isinstance(tensor.data, list):
        return [each.decode() for each in tensor.data]
    if elements(tensor.name, tensor.shape) > MAX_VALUES:
        raise BadRequest(f"output '{tensor.name}': over {MAX_VALUES} numbers: ask for binary data")
    if tensor.datatype == "BOOL":
        return [value != 0 for value in tensor.data]
    values = array(_CODES[tensor.datatype])
    values.frombytes(tensor.data)
    return values.tolist()


def code(name: str, datatype: str) -> str:
    """Return ``array``'s code for numbers of that type. Raises ``BadRequest`` for no such type."""
    found = _CODES.get(datatype)
    if found is None:
        raise BadRequest(f"input '{name}': the datatype {datatype[:16]!r} is not taken")
    return found


def _split(name: str, data: memoryview, count: int, most: int) -> list[bytes]:
    if count > most:
        raise BadRequest(f"input '{name}': at most {most} elements, the shape has {count}")
    found, at = [], 0
    for _ in range(count):
        begin = at + _LENGTH
        at = begin + int.from_bytes(data[at:begin], "little")
        if begin > len(data) or at > len(data):
            raise BadRequest(f"input '{name}': the data end within an element")
        found.append(bytes(data[begin:at]))
    if at != len(data):
        raise BadRequest(f"input '{name}': {len(data) - at} bytes more than the shape has")
    return found


def _flat(name: str, values: list[Any]) -> tuple[list[Any], list[int]]:
    """Return the elements of nested lists, and the length of the lists at each depth."""
    nesting = [len(values)]
    while values and isinstance(values[0], list):
        length = len(values[0])
        if not all(isinstance(each, list) and len(each) == length for each in values):
            raise BadRequest(f"input '{name}': the data are nested unevenly")
        values = list(chain.from_iterable(values))
        nesting.append(length)
    return values, nesting


def _longer_sides(shape: Sequence[int]) -> list[int]:
    return [side for side in shape if side != 1]


def _octets(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise TypeError


def _without_truths(values: list[Any]) -> list[Any]:
    if bool in set(map(type, values)):  # an array would take them for 1 and 0
        raise TypeError
    return values
