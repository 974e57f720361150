"""Decoding of untrusted JSON at a cost bounded by its size.

The two bytes ``{}`` become 64 bytes of objects, while a long string becomes just itself. So the
bytes outside of long strings are limited before anything is decoded, and encoded images may be as
large as a body. Fields that a struct does not name are skipped without being built.
"""

from __future__ import annotations

import functools
import re
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import Raw

from mataserver.errors import BadRequest, InvalidParams, TooLarge
from mataserver.http import unknown_fields
from mataserver.params import whole_numbers
from mataserver.params.wording import describe

MAX_STRUCTURE_BYTES = 262_144
"""Maximum bytes of a body outside of its long strings."""
MIN_LONG_STRING = 4_096
"""Minimum bytes of a long string, whose memory is proportional to its length."""

_BACKSLASH = ord("\\")
_MISSING = re.compile(r"Object missing required field `(\w+)`")
"""msgspec's error for a field that the body itself lacks: within another object it has a path."""

T = TypeVar("T")


def decode(data: bytes, kind: type[T]) -> T:
    """Decode a body to a struct; null means that an optional field is not given, 5.0 means 5.

    Unknown fields are ignored, unless ``kind`` forbids them, or has ``refuses_misspelt`` and one
    resembles its own. Raises ``BadRequest`` for invalid JSON, ``InvalidParams`` for wrong types and
    such fields, ``TooLarge`` for more than ``MAX_STRUCTURE_BYTES`` bytes outside of long strings.
    """
    return decode_with_warning(data, kind)[0]


def decode_with_warning(data: bytes, kind: type[T], strict: type[T] | None = None) -> tuple[T, str]:
    """Decode as ``decode`` does; also return a warning that names the ignored fields, or "".

    ``strict`` is the same struct without unknown fields: most bodies are then read once.
    """
    check(data)
    if strict is not None:
        try:
            return msgspec.json.decode(data, type=strict), ""
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            pass  # described below, unless it is an unknown field
    return _decode(data, kind), unknown_fields.warning(data, kind)


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        if _is_spelling(error):
            return _decode_plain(data, kind)
        _check_json(data)
        raise _invalid_params(error, kind, data) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BadRequest("The body is not valid JSON") from None


def convert(value: Any, kind: type[T]) -> T:
    """Convert decoded JSON to ``kind``; null means that an optional field is not given, 5.0 is 5.

    Raises ``InvalidParams`` naming the invalid field, ``BadRequest`` for values nested so deeply
    that Python cannot walk through them.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        try:
            return whole_numbers.read(
                without_nulls(value, kind), lambda v: msgspec.convert(v, kind)
            )
        except msgspec.ValidationError as error:
            raise _invalid_params(error, kind) from None
        except RecursionError:
            raise BadRequest("The body is nested too deeply") from None


def check(data: bytes) -> None:
    """Raise ``TooLarge`` if too much of a body lies outside of its long strings.

    Raises ``BadRequest`` if it is detected to be invalid JSON.

    The cost is that of finding quotation marks, and it stops at the limit.
    """
    if len(data) <= MAX_STRUCTURE_BYTES:
        return
    outside = at = 0
    while at < len(data) and outside <= MAX_STRUCTURE_BYTES:
        begin = data.find(b'"', at)
        if begin < 0:
            begin = len(data)
        end, escapes = _string_end(data, begin + 1)
        length = min(end + 1, len(data)) - begin
        outside += begin - at + escapes + (length if length < MIN_LONG_STRING else 0)
        at = end + 1
    if outside > MAX_STRUCTURE_BYTES:
        if len(data) <= 4 * MAX_STRUCTURE_BYTES:  # report invalid JSON as such, if that is cheap
            _check_json(data)
        raise TooLarge(
            f"The body has over {MAX_STRUCTURE_BYTES} bytes beside its images and long texts"
        )


def _string_end(data: bytes, begin: int) -> tuple[int, int]:
    """Return the end of a string that starts at ``begin``, and its number of escaped quotes.

    Stops after ``MAX_STRUCTURE_BYTES`` of these.
    """
    escapes, at = 0, begin
    while escapes <= MAX_STRUCTURE_BYTES:
        end = data.find(b'"', at)
        if end < 0:
            return len(data), escapes
        if data[end - 1] != _BACKSLASH or _trailing_backslashes(data[at:end]) % 2 == 0:
            return end, escapes
        escapes += 1
        at = end + 1
    return len(data), escapes


def _trailing_backslashes(text: bytes) -> int:
    return len(text) - len(text.rstrip(b"\\"))


def _decode_plain(data: bytes, kind: type[T]) -> T:
    """Decode without members that are null where that is refused, and with integers as such."""
    plain = b""

    def read(value: Any) -> T:
        nonlocal plain
        plain = msgspec.json.encode(value)
        return msgspec.json.decode(plain, type=kind)

    try:
        return whole_numbers.read(without_nulls(msgspec.json.decode(data), kind), read)
    except msgspec.ValidationError as error:
        raise _invalid_params(error, kind, plain) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BadRequest("The body is not valid JSON") from None


def describe_error(error: msgspec.ValidationError, kind: Any = None) -> str:
    """Describe a validation error of a body, beginning with the field.

    With the target type ``kind``, lists the values that the field accepts.
    """
    return describe(error, "", kind) or "the body must be a JSON object"


def _invalid_params(error: msgspec.ValidationError, kind: Any, data: bytes = b"") -> InvalidParams:
    missing = _MISSING.fullmatch(str(error))
    hint = unknown_fields.hint_of_body(missing[1], data, kind) if missing and data else ""
    return InvalidParams(describe_error(error, kind) + hint)


def _is_spelling(error: msgspec.ValidationError) -> bool:
    """Whether a body may be valid once nulls are left out and 5.0 is 5."""
    return "got `null`" in str(error) or whole_numbers.are_refused(error)


def without_nulls(value: Any, kind: Any = None) -> Any:
    """Return decoded JSON without object members that are null, but for fields that may be.

    Those are of ``kind`` itself: to a change of something, null may say that it is taken away.
    """
    if isinstance(value, dict):
        is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
        kept = _nullable_fields(kind) if is_struct else ()
        return {
            name: without_nulls(each)
            for name, each in value.items()
            if each is not None or name in kept
        }
    return [without_nulls(each) for each in value] if isinstance(value, list) else value


@functools.cache
def _nullable_fields(kind: type[msgspec.Struct]) -> frozenset[str]:
    fields = msgspec.structs.fields(kind)
    return frozenset(each.encode_name for each in fields if _is_nullable(each.type))


def _is_nullable(kind: Any) -> bool:
    bare = kind.__origin__ if get_origin(kind) is Annotated else kind
    return NoneType in get_args(bare)


def _check_json(data: bytes) -> None:
    """Raise ``BadRequest`` for invalid JSON, possibly after the place of a type error."""
    try:
        msgspec.json.decode(data, type=Raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BadRequest("The body is not valid JSON") from None
