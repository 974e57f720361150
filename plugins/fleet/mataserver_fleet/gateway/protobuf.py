"""A partial protocol buffers reader: what a message requests, without decoding its tensors.

See protobuf.dev/programming-guides/encoding. A field that should be there once and is there twice
is refused: another reader might take the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mataserver import BadRequest
from mataserver_fleet.gateway.sequences import SequenceStep

if TYPE_CHECKING:
    from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_KEY = (1 << 32) - 1
_MAX_FIELDS, _MAX_PARAMETER_FIELDS = 4_096, 8
"""Fields of a message and of one parameter: a request has a few for each tensor, and looking at
millions of them would block the event loop."""
_MAX_NESTED_FIELDS = 16_384
"""Fields of a message and of its tensors together, where these are looked into."""
_NAME, _VERSION, _PARAMETERS = 1, 2, 4
_TENSORS = {5: 4, 6: 2}
"""Inputs and outputs of an inference, and where each has its parameters."""
_REGION = b"shared_memory_region"
_SEQUENCE_FIELDS: dict[bytes, dict[int, type]] = {
    b"sequence_id": {2: int, 3: memoryview, 5: int},
    b"sequence_start": {1: int},
    b"sequence_end": {1: int},
}
"""Parameters of sequences, and by which of a value's fields a server reads each: as a truth, a
number or a text."""
TRUE = b"\x08\x01"
"""A message whose first field is true."""


class RequestedModel(NamedTuple):
    """Which model a message asks, which version, and the step of a sequence that it is."""

    model: str
    version: str
    step: SequenceStep | None = None


def requested_model(message: bytes, *, infer: bool = False) -> RequestedModel:
    """Return what a message asks for. Raises ``BadRequest`` for what cannot be read."""
    name = version = None
    given: dict[str, int | bytes] = {}
    for number, value in fields(message):
        if number == _NAME and isinstance(value, memoryview):
            name = _check_single(name, value)
        elif number == _VERSION and isinstance(value, memoryview):
            version = _check_single(version, value)
        elif infer and number == _PARAMETERS and isinstance(value, memoryview):
            given.update(_parameter(value))
    sequence = given.get("sequence_id", 0)
    step = None
    if sequence not in {0, b""}:
        known = sequence if isinstance(sequence, int) else sequence.decode("utf-8", "replace")
        step = SequenceStep(
            known, bool(given.get("sequence_start")), bool(given.get("sequence_end"))
        )
    return RequestedModel(_text(name), _text(version), step)


def names_region(message: bytes) -> bool:
    """Whether an input or output of an inference is to be in a region of shared memory.

    Raises ``BadRequest`` for what cannot be read.
    """
    if _REGION not in message:  # a name stands in a message as it is
        return False
    left = iter(range(_MAX_NESTED_FIELDS))
    return any(
        key == 1 and isinstance(part, memoryview) and bytes(part) == _REGION
        for number, tensor in fields(message, left)
        if number in _TENSORS and isinstance(tensor, memoryview)
        for field, entry in fields(tensor, left)
        if field == _TENSORS[number] and isinstance(entry, memoryview)
        for key, part in fields(entry, left)
    )


def with_version(message: bytes, version: str) -> bytes:
    """Return a message that names a version: of several the last one counts."""
    raw = version.encode()
    return b"%b%c%c%b" % (message, _VERSION << 3 | _BYTES, len(raw), raw)


def text(number: int, value: str) -> bytes:
    """Return a field of at most 127 bytes of text."""
    raw = value.encode()
    return b"%c%c%b" % (number << 3 | _BYTES, len(raw), raw)


def fields(
    message: bytes | memoryview, left: Iterator[int] | None = None
) -> Iterator[tuple[int, int | memoryview | None]]:
    """Yield the fields of a message: a number, and an integer or bytes.

    None for one of fixed size: a text is never written so, and who looks for one passes it by.

    ``left`` has an element for each field that may yet be read, of this message and of others.

    Raises ``BadRequest`` for what cannot be read, and for too many fields.
    """
    view, at = memoryview(message), 0
    left = iter(range(_MAX_FIELDS)) if left is None else left
    while at < len(view):
        if next(left, None) is None:
            raise BadRequest("The message has too many fields")
        key, at = _varint(view, at)
        if key > _MAX_KEY:
            # C++ cuts it to 32 bits, and would find another field there than this does.
            raise _unreadable()
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(view, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(view, at)
        elif kind in {_FIXED64, _FIXED32}:
            size = 8 if kind == _FIXED64 else 4
        else:
            raise _unreadable()
        if number == 0 or at + size > len(view):
            raise _unreadable()
        yield number, view[at : at + size] if kind == _BYTES else None
        at += size


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(view) or shift > 63:
            raise _unreadable()
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (1 << 64) - 1, at
        shift += 7


def _parameter(entry: memoryview) -> dict[str, int | bytes]:
    """Return one parameter, where it says something of a sequence.

    What is there twice, and a value that is none, would be read otherwise by others: protobuf
    merges the one and passes by the other. Raises ``BadRequest``.
    """
    parts: dict[int, memoryview] = {}
    for number, part in fields(entry, iter(range(_MAX_PARAMETER_FIELDS))):
        if not isinstance(part, memoryview) or number not in {1, 2} or number in parts:
            raise BadRequest("The message has an ambiguous parameter")
        parts[number] = part
    key = bytes(parts.get(1, b""))
    if key not in _SEQUENCE_FIELDS:
        return {}
    values = list(fields(parts.get(2, memoryview(b"")), iter(range(_MAX_PARAMETER_FIELDS))))
    number, found = values[0] if len(values) == 1 else (0, None)
    if found is None or type(found) is not _SEQUENCE_FIELDS[key].get(number):
        raise BadRequest(f"{key.decode()}: expected one value, of its own kind")
    return {key.decode(): bytes(found) if isinstance(found, memoryview) else found}


def _check_single(before: memoryview | None, value: memoryview) -> memoryview:
    if before is not None:
        raise BadRequest("The message names its model or version twice")
    return value


def _text(value: memoryview | None) -> str:
    try:
        return "" if value is None else str(value, "utf-8")
    except UnicodeDecodeError:
        raise _unreadable() from None


def _unreadable() -> BadRequest:
    return BadRequest("The message cannot be read")
