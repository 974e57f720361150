"""Finds JSON in the output of a language model.

Models wrap JSON in prose and code fences, leave commas behind the last item, and write Python's
quotes and constants. All of that is read. Truncated JSON is not completed: it counts as no answer.
"""

from __future__ import annotations

import math
import re
from typing import Any

MAX_DEPTH = 32
"""How deep values may be nested; deeper ones are not read."""

_LARGEST = 2**63 - 1  # what every decoder of the wire format takes as an integer
_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)
_SPACE = re.compile(r"\s*")
# Possessive throughout: a model that repeats itself must not make the matching quadratic.
_STRING = {
    '"': re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL),
    "'": re.compile(r"'((?:[^'\\]++|\\.)*+)'", re.DOTALL),
}
_NUMBER = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?(?![\w.])")
_WORD = re.compile(r"[A-Za-z]++")
_OPENING = re.compile(r"[\[{]")
_WORDS = {"true": True, "false": False, "null": None, "none": None, "nan": None}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


class _NotJsonError(Exception):
    """The text at this position is not JSON."""


class _TruncatedError(Exception):
    """The text ends before its value does."""


def find(text: str) -> dict[str, Any] | list[Any] | None:
    """Return the JSON object or list that ``text`` holds, or None; never raises.

    Code fences are searched first. Of several values the longest counts. Also returns None if the
    text ends inside a value.
    """
    for candidate in (*_FENCE.findall(text), text):
        try:
            found = _longest(candidate)
        except _TruncatedError:
            return None
        if found is not None:
            return found
    return None


def _longest(text: str) -> dict[str, Any] | list[Any] | None:
    best: dict[str, Any] | list[Any] | None = None
    length = 0
    start = 0
    while opening := _OPENING.search(text, start):
        begin = opening.start()
        try:
            value, start = _value(text, begin, MAX_DEPTH)
        except _NotJsonError:
            start = begin + 1
            continue
        if start - begin > length:
            best, length = value, start - begin
    return best


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    """Read the value at ``at``; return it and where it ends."""
    sign = _char(text, at)
    if sign in "[{":
        if depth == 0:
            raise _NotJsonError
        read = _list if sign == "[" else _object
        return read(text, at + 1, depth - 1)
    if sign in _STRING:
        return _string(text, at)
    if number := _NUMBER.match(text, at):
        return _number(number[0]), number.end()
    return _word(text, at)


def _word(text: str, at: int) -> tuple[bool | None, int]:
    found = _WORD.match(text, at)
    word = found[0].lower() if found else ""
    if word in _WORDS:
        return _WORDS[word], at + len(word)
    if word and at + len(word) == len(text) and any(known.startswith(word) for known in _WORDS):
        raise _TruncatedError
    raise _NotJsonError


def _list(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    at = _skip(text, at)
    while _char(text, at) != "]":
        item, at = _value(text, at, depth)
        items.append(item)
        at = _skip_comma(text, at, "]")
    return items, at + 1


def _object(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    members: dict[str, Any] = {}
    at = _skip(text, at)
    while _char(text, at) != "}":
        if text[at] not in _STRING:
            raise _NotJsonError
        name, at = _string(text, at)
        at = _skip(text, at)
        if _char(text, at) != ":":
            raise _NotJsonError
        members[name], at = _value(text, _skip(text, at + 1), depth)
        at = _skip_comma(text, at, "}")
    return members, at + 1


def _skip_comma(text: str, at: int, closing: str) -> int:
    """Step over a comma; stay at ``closing``."""
    at = _skip(text, at)
    sign = _char(text, at)
    if sign == ",":
        return _skip(text, at + 1)
    if sign != closing:
        raise _NotJsonError
    return at


def _string(text: str, at: int) -> tuple[str, int]:
    found = _STRING[text[at]].match(text, at)
    if found is None:
        raise _TruncatedError
    plain = _ESCAPE.sub(_unescape, found[1])
    # Pairs of surrogates become their character; lone ones cannot be encoded as UTF-8.
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), found.end()


def _unescape(escape: re.Match[str]) -> str:
    sign = escape[1]
    return chr(int(sign[1:], 16)) if len(sign) == 5 else _ESCAPED.get(sign, sign)


def _number(written: str) -> int | float | None:
    # The sign and 19 digits are the longest integer there can be.
    if len(written) <= 20 and not set(written) & set(".eE"):
        whole = int(written)
        if abs(whole) <= _LARGEST:
            return whole
    value = float(written)
    return value if math.isfinite(value) else None


def _char(text: str, at: int) -> str:
    if at >= len(text):
        raise _TruncatedError
    return text[at]


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at
