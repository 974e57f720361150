"""JSON of strangers to typed values, at a cost that its size bounds.

Two bytes of JSON, ``{}``, make 64 bytes of objects, and a long text makes itself. So what is not
within long texts is bounded before anything is built, and encoded images are as large as a body may
be. What a struct does not name is skipped without being built.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from mataserver.errors import BadRequest, InvalidParams, TooLarge
from mataserver.params import describe

MOST_OUTSIDE = 262_144
"""How many bytes of a body may lie outside of its long texts."""
LONG_TEXT = 4_096
"""Bytes from which a text is long: it takes as much memory as it is long, whatever is in it."""

_BACKSLASH = ord("\\")

T = TypeVar("T")


def decode(data: bytes, kind: type[T]) -> T:
    """Decode a body to a struct; null stands for an optional field that is not given.

    Raises ``BadRequest`` for no JSON, ``InvalidParams`` for wrong types, ``TooLarge`` for more than
    ``MOST_OUTSIDE`` bytes outside of long texts.
    """
    check(data)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        if "got `null`" in str(error):
            return _typed(_without_nulls(data), kind)
        _check_json(data)
        raise _refusal(error, kind) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BadRequest("The body is not valid JSON") from None


def convert(value: Any, kind: type[T]) -> T:
    """Return decoded JSON as a ``kind``; null stands for an optional field that is not given.

    Raises ``InvalidParams`` naming the field that is wrong.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        try:
            return msgspec.convert(pruned(value), kind)
        except msgspec.ValidationError as error:
            raise _refusal(error, kind) from None


def check(data: bytes) -> None:
    """Raise ``TooLarge`` when too much of a body is outside of its long texts.

    Raises ``BadRequest`` too, for what is seen to be no JSON.

    The cost is that of finding quotation marks, and it ends where the limit is reached.
    """
    if len(data) <= MOST_OUTSIDE:
        return
    outside = at = 0
    while at < len(data) and outside <= MOST_OUTSIDE:
        begin = data.find(b'"', at)
        if begin < 0:
            begin = len(data)
        end, escapes = _end(data, begin + 1)
        length = min(end + 1, len(data)) - begin
        outside += begin - at + escapes + (length if length < LONG_TEXT else 0)
        at = end + 1
    if outside > MOST_OUTSIDE:
        if len(data) <= 4 * MOST_OUTSIDE:  # what is no JSON is told so, where that costs little
            _check_json(data)
        raise TooLarge(f"The body has over {MOST_OUTSIDE} bytes beside its images and long texts")


def _end(data: bytes, begin: int) -> tuple[int, int]:
    """Return where a text ends that begins there, and how many quotation marks are escaped in it.

    Gives up behind ``MOST_OUTSIDE`` of these.
    """
    escapes, at = 0, begin
    while escapes <= MOST_OUTSIDE:
        end = data.find(b'"', at)
        if end < 0:
            return len(data), escapes
        if data[end - 1] != _BACKSLASH or _backslashes(data[at:end]) % 2 == 0:
            return end, escapes
        escapes += 1
        at = end + 1
    return len(data), escapes


def _backslashes(text: bytes) -> int:
    """Return how many backslashes ``text`` ends with."""
    return len(text) - len(text.rstrip(b"\\"))


def _typed(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise _refusal(error, kind) from None


def described(error: msgspec.ValidationError, kind: Any = None) -> str:
    """Return what is wrong with a body in words that begin with the field.

    With the type ``kind`` that it was to be, they name the values that a field takes.
    """
    return describe(error, "", kind) or "the body must be a JSON object"


def _refusal(error: msgspec.ValidationError, kind: Any) -> InvalidParams:
    return InvalidParams(described(error, kind))


def _without_nulls(data: bytes) -> bytes:
    """Return the JSON without those members of objects that are null."""
    try:
        return msgspec.json.encode(pruned(msgspec.json.decode(data)))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BadRequest("The body is not valid JSON") from None


def pruned(value: Any) -> Any:
    """Return decoded JSON without those members of objects that are null."""
    if isinstance(value, dict):
        return {name: pruned(each) for name, each in value.items() if each is not None}
    return [pruned(each) for each in value] if isinstance(value, list) else value


def _check_json(data: bytes) -> None:
    """Raise ``BadRequest`` for what is no JSON at all, perhaps only behind what is of no type."""
    try:
        msgspec.json.decode(data, type=Raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BadRequest("The body is not valid JSON") from None
