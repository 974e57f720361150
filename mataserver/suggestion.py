"""Suggestions for misspelt names."""

from __future__ import annotations

import contextlib
import functools
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from msgspec import inspect

MAX_LENGTH = 100
"""Maximum number of characters compared: the client chooses the length."""
MAX_NAMES = 1_000
"""Maximum number of names compared."""
CACHE_SIZE = 256
"""Number of cached comparisons."""


def similar(given: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean …?"`` with the most similar known name, or "".

    Ignores case, and the owner before a slash.
    """
    if given in (known := tuple(known)[:MAX_NAMES]):
        return ""
    found = closest(given, known)
    return "" if found is None else f"; did you mean {found}?"


def closest(given: str, known: Iterable[str]) -> str | None:
    """Return the known name that ``similar`` suggests, if any."""
    return _closest(_normalized(given)[:MAX_LENGTH], tuple(known)[:MAX_NAMES])


@functools.lru_cache(maxsize=CACHE_SIZE)  # a client may repeat the same wrong name
def _closest(given: str, known: tuple[str, ...]) -> str | None:
    import difflib  # late, here and below: not needed unless something is wrong

    names = {_normalized(name): name for name in reversed(known)}
    names |= {tail: name for at, name in names.items() if (tail := at.rpartition("/")[2])}
    found = difflib.get_close_matches(given, names, 1, 0.7)
    return names[found[0]] if found else None


def _normalized(name: str) -> str:
    return name.casefold().replace("_", "-")


def similar_task(given: str, known: Iterable[str]) -> str:
    """Like ``similar``, for tasks, which people also write as "object-detection"."""
    names, text = list(known), _normalized(given)[:MAX_LENGTH]
    stems = [name for name in names if name[:6] in text]
    # Of three letters, two swapped ones are already too unlike for ``similar``: "orc" for "ocr".
    swapped = [name for name in names if sorted(name) == sorted(text)]
    if meant := stems + swapped:
        return f"; did you mean {meant[0]}?"
    return similar(given, names)


def describe_unknown_task(given: str, known: Iterable[str]) -> str:
    """Return an unknown task with the known ones, as a part of an error message."""
    names = list(known)
    return f"{given[:40]!r}: one of {', '.join(names)}{similar_task(given, names)}"


def names_at(kind: Any, path: str) -> list[str]:
    """Return the valid names at a msgspec path in a type: a struct's keys, or a literal's values.

    ``path`` is like ``.models[0].engine``.
    """
    from msgspec import inspect

    nodes = list(_unwrapped(inspect.type_info(kind)))
    for name in re.findall(r"\.(\w+)|\[[^\]]*\]", path):
        inner = [part for node in nodes for part in _member_types(node, name)]
        nodes = [plain for each in inner for plain in _unwrapped(each)]
    return [name for node in nodes for name in _names(node)]


def patterns_of(kind: Any) -> dict[str, str]:
    """Return the string patterns in a type, with their descriptions."""
    import msgspec

    found: dict[str, str] = {}
    waiting: list[Any] = []
    with contextlib.suppress(TypeError):  # it has no schema, as with a default that is raw bytes
        waiting.append(msgspec.json.schema(kind, schema_hook=lambda _: {}))
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            if isinstance(node.get("pattern"), str) and "description" in node:
                found.setdefault(node["pattern"], node["description"])
            waiting += node.values()
    return found


def _unwrapped(node: inspect.Type) -> Iterator[inspect.Type]:
    """Yield a type without its metadata, or the members of a union."""
    from msgspec import inspect

    if isinstance(node, inspect.Metadata):
        yield from _unwrapped(node.type)
    elif isinstance(node, inspect.UnionType):
        for each in node.types:
            yield from _unwrapped(each)
    else:
        yield node


def _member_types(node: inspect.Type, name: str) -> list[inspect.Type]:
    """Return the type of a struct's field, or of a list's or map's items."""
    from msgspec import inspect

    if isinstance(node, inspect.StructType):
        return [field.type for field in node.fields if field.encode_name == name]
    if isinstance(node, inspect.ListType):
        return [node.item_type]
    return [node.value_type] if isinstance(node, inspect.DictType) else []


def _names(node: inspect.Type) -> list[str]:
    from msgspec import inspect

    if isinstance(node, inspect.StructType):
        return [field.encode_name for field in node.fields]
    return [str(each) for each in node.values] if isinstance(node, inspect.LiteralType) else []
