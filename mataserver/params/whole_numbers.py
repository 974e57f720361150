"""Integers written with a decimal point.

JSON has one kind of number: 5.0 is the integer 5, in JSON Schema too, and clients whose language
has only floating point numbers send it so. msgspec refuses it where a type has an ``int``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from mataserver.params.wording import split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
_REFUSED = re.compile(r"Expected `[^`]*\bint\b[^`]*`, got `float`")
_MAX_EXACT = 2**53
"""From here on a float may be another integer than the one that was written."""
_SINGLE, _ALL = 4, 48
"""Integers that are looked for one by one; and all tries, in which lists are changed as a whole."""
_SHOWN = 64
"""Characters of a text that stay while they are looked for: an image in base64 is not needed."""


def are_refused(error: msgspec.ValidationError) -> bool:
    """Whether a validation error may be about such an integer."""
    return _REFUSED.search(str(error)) is not None


def read(value: Any, reader: Callable[[Any], T]) -> T:
    """Return what ``reader`` makes of decoded JSON with floats as ints, only where it refuses them.

    Where any value is allowed, 5.0 may be meant. Raises what ``reader`` raises.
    """
    whole, short = [_copied(value, None)], [_copied(value, _SHOWN)]
    for number in range(_ALL):
        try:
            reader(short[0])
        except msgspec.ValidationError as error:
            path = f"[0]{split(str(error))[1]}"
            if not are_refused(error) or not _convert(short, path, every=number >= _SINGLE):
                break
            _convert(whole, path, every=number >= _SINGLE)
        else:
            break
    return reader(whole[0])


def _copied(value: Any, length: int | None) -> Any:
    """Return a copy that can be changed, its texts cut to a length."""
    if isinstance(value, dict):
        return {name: _copied(each, length) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(each, length) for each in value]
    return value[:length] if isinstance(value, str) else value


def _convert(node: Any, path: str, *, every: bool) -> bool:
    """Convert the floats at msgspec's path, in ``every`` item of lists; return if there are any."""
    found = False
    for key, rest in _steps(node, path, every=every):
        child = node[key]
        if rest:
            found = _convert(child, rest, every=every) or found
        elif isinstance(child, float) and abs(child) < _MAX_EXACT and child.is_integer():
            node[key] = int(child)
            found = True
    return found


def _steps(node: Any, path: str, *, every: bool) -> Iterator[tuple[Any, str]]:
    """Yield the keys that the path's first step may mean, each with the rest of the path."""
    index, _, rest = path[1:].partition("]")
    if isinstance(node, list):
        keys = range(len(node))
        yield from ((key, rest) for key in keys if every or index == str(key))
    elif isinstance(node, dict) and path.startswith("[...]"):  # a key of the client's
        yield from ((key, rest) for key in node)
    elif isinstance(node, dict):  # a field's name, in which dots may be
        for key in node:
            rest = path.removeprefix(f".{key}")
            if rest != path and rest[:1] in {"", ".", "["}:
                yield key, rest
