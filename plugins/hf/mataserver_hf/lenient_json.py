"""Finds JSON in what a language model wrote.

Models wrap JSON in prose and code fences, leave commas behind the last item, and write Python's
quotes and constants. All of that is read. What was cut off is not completed: an answer that ended
early is no answer.
"""

from __future__ import annotations

import math
import re
from typing import Any

DEPTH = 32
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


class _UnreadableError(Exception):
    """What stands here is no JSON."""


class _EndedError(Exception):
    """The text ends before its value does."""


def find(text: str) -> dict[str, Any] | list[Any] | None:
    """Return the JSON object or list that ``text`` holds, or None; never raises.

    Code fences are looked into first. Of several values the longest counts. None too if a value
    was begun and the text ends before it does.
    """
    for candidate in (*_FENCE.findall(text), text):
        try:
            found = _longest(candidate)
        except _EndedError:
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
            value, start = _value(text, begin, DEPTH)
        except _UnreadableError:
            start = begin + 1
            continue
        if start - begin > length:
            best, length = value, start - begin
    return best


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    """Read the value at ``at``; return it and where it ends."""
    sign = _sign(text, at)
    if sign in "[{":
        if depth == 0:
            raise _UnreadableError
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
        raise _EndedError
    raise _UnreadableError


def _list(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    at = _skip(text, at)
    while _sign(text, at) != "]":
        item, at = _value(text, at, depth)
        items.append(item)
        at = _next(text, at, "]")
    return items, at + 1


def _object(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    members: dict[str, Any] = {}
    at = _skip(text, at)
    while _sign(text, at) != "}":
        if text[at] not in _STRING:
            raise _UnreadableError
        name, at = _string(text, at)
        at = _skip(text, at)
        if _sign(text, at) != ":":
            raise _UnreadableError
        members[name], at = _value(text, _skip(text, at + 1), depth)
        at = _next(text, at, "}")
    return members, at + 1


def _next(text: str, at: int, closing: str) -> int:
    """Step over a comma; stay at ``closing``."""
    at = _skip(text, at)
    sign = _sign(text, at)
    if sign == ",":
        return _skip(text, at + 1)
    if sign != closing:
        raise _UnreadableError
    return at


def _string(text: str, at: int) -> tuple[str, int]:
    found = _STRING[text[at]].match(text, at)
    if found is None:
        raise _EndedError
    plain = _ESCAPE.sub(_unescape, found[1])
    # Pairs of surrogates become the character they stand for, lone ones cannot be sent.
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


def _sign(text: str, at: int) -> str:
    if at >= len(text):
        raise _EndedError
    return text[at]


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at
