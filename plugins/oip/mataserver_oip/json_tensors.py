"""Tensors as lists within JSON, read at a cost that is bounded whatever the list holds.

A list of three numbers takes eight bytes as JSON and ninety as an object. Long lists are therefore
never built: their brackets must be those of the shape, and the numbers between them are read some
thousands at a time.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import JSON_LIMIT, BadRequest, check_json
from mataserver_oip import tensor
from mataserver_oip.tensor import MAX_VALUES, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PIECE = 1 << 18
"""Bytes of numbers that are read at a time."""
_NUMBERS = b"0123456789+-.eE \t\r\n"


def read(name: str, datatype: str, shape: Sequence[int], text: bytes) -> Tensor:
    """Read a tensor from the JSON of a list, flat or nested as the shape is.

    Raises ``BadRequest`` for elements of another type and when they do not fill the shape, and
    ``TooLarge`` for too many short texts.
    """
    if datatype != "BYTES" and len(text) > JSON_LIMIT:
        return _long(name, datatype, shape, text)
    check_json(text)
    values = _decoded(text)
    if not isinstance(values, list):
        raise BadRequest(f"input '{name}': data must be a list")
    return tensor.from_values(name, datatype, shape, values)


def _long(name: str, datatype: str, shape: Sequence[int], text: bytes) -> Tensor:
    code = tensor.code(name, datatype)
    count, given = tensor.elements(name, shape), text.count(b",") + 1
    if max(count, given) > MAX_VALUES:
        raise BadRequest(f"input '{name}': over {MAX_VALUES} numbers: send them as bytes")
    if given != count:
        raise BadRequest(
            f"input '{name}': the shape {list(shape)} has {count} elements, got {given}"
        )
    if text.translate(None, _NUMBERS) not in {_brackets([count]), _brackets(shape)}:
        raise BadRequest(f"input '{name}': the data must be numbers, flat or nested as the shape")
    try:
        values = array(code)
        for numbers in _pieces(text.translate(None, b"[]")):
            values.extend(array(code, numbers))
    except (TypeError, OverflowError):
        raise BadRequest(f"input '{name}': the data are not {datatype}") from None
    return Tensor(name, datatype, tuple(shape), values.tobytes())


def _brackets(shape: Sequence[int]) -> bytes:
    """Return a list of that shape without its numbers. No size of ``shape`` may be 0."""
    made = b""
    for size in reversed(shape):
        made = b"[" + b",".join([made] * size) + b"]"
    return made


def _pieces(text: bytes) -> Iterator[list[Any]]:
    """Yield the numbers between commas, about ``PIECE`` bytes of them at a time."""
    at = 0
    while at < len(text):
        end = text.find(b",", at + PIECE)
        end = len(text) if end < 0 else end
        yield _decoded(b"[" + text[at:end] + b"]")
        at = end + 1


def _decoded(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BadRequest("The body is not valid JSON") from None
