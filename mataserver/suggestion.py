"""What somebody may have meant by a name that does not exist."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from msgspec import inspect

LONGEST = 100
"""Characters of a name that are compared: a client may send any number of them."""
MOST = 1_000
"""Names that are compared with it."""
KEPT = 256
"""Comparisons whose outcome is remembered."""


def similar(given: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean …?"`` with the known name that is most like the given one, or "".

    Neither case nor the owner before a slash must be right.
    """
    if given in (known := tuple(known)[:MOST]):
        return ""
    found = _closest(_folded(given)[:LONGEST], known)
    return "" if found is None else f"; did you mean {found}?"


@functools.lru_cache(maxsize=KEPT)  # a client may ask for what is not there again and again
def _closest(given: str, known: tuple[str, ...]) -> str | None:
    """Return the known name that is most like a folded one, if any is."""
    import difflib  # here and below: a command that finds nothing wrong needs neither

    names = {_folded(name): name for name in reversed(known)}
    names |= {tail: name for at, name in names.items() if (tail := at.rpartition("/")[2])}
    found = difflib.get_close_matches(given, names, 1, 0.7)
    return names[found[0]] if found else None


def _folded(name: str) -> str:
    return name.casefold().replace("_", "-")


def task(given: str, known: Iterable[str]) -> str:
    """Return the same for a task, of which people also write longer words: "object-detection"."""
    names, text = list(known), _folded(given)[:LONGEST]
    stems = [name for name in names if name[:6] in text]
    return f"; did you mean {stems[0]}?" if stems else similar(given, names)


def instead_of(given: str, known: Iterable[str]) -> str:
    """Return a task that does not exist, with those that do."""
    names = list(known)
    return f"{given[:40]!r}: one of {', '.join(names)}{task(given, names)}"


def known_at(kind: Any, path: str) -> list[str]:
    """Return what may stand at a path of msgspec's in a type: a struct's keys, a literal's values.

    ``path`` is like ``.models[0].engine``.
    """
    from msgspec import inspect

    nodes = list(_plain(inspect.type_info(kind)))
    for name in re.findall(r"\.(\w+)|\[[^\]]*\]", path):
        inner = [part for node in nodes for part in _within(node, name)]
        nodes = [plain for each in inner for plain in _plain(each)]
    return [name for node in nodes for name in _names(node)]


def patterns_of(kind: Any) -> dict[str, str]:
    """Return the patterns of the texts in a type, each with what describes it, where that is."""
    from msgspec import inspect

    found: dict[str, str] = {}
    waiting, seen = [inspect.type_info(kind)], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # a type may hold itself
            continue
        seen.add(id(node))
        if isinstance(node, inspect.Metadata):
            said = (node.extra_json_schema or {}).get("description")
            if isinstance(node.type, inspect.StrType) and node.type.pattern and said:
                found.setdefault(node.type.pattern, said)
        waiting += _inside(node)
    return found


def _inside(node: inspect.Type) -> list[inspect.Type]:
    """Return the types that a type is made of."""
    from msgspec import inspect

    if isinstance(node, inspect.Metadata):
        return [node.type]
    if isinstance(node, inspect.UnionType):
        return list(node.types)
    if isinstance(node, inspect.StructType):
        return [field.type for field in node.fields]
    if isinstance(node, inspect.DictType):
        return [node.key_type, node.value_type]
    if isinstance(node, inspect.CollectionType):
        return [node.item_type]
    return list(node.item_types) if isinstance(node, inspect.TupleType) else []


def _plain(node: inspect.Type) -> Iterator[inspect.Type]:
    """Yield a type without its metadata, or those that a union is of."""
    from msgspec import inspect

    if isinstance(node, inspect.Metadata):
        yield from _plain(node.type)
    elif isinstance(node, inspect.UnionType):
        for each in node.types:
            yield from _plain(each)
    else:
        yield node


def _within(node: inspect.Type, name: str) -> list[inspect.Type]:
    """Return the types of a struct's field, or of what a list or a map holds."""
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
