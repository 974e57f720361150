"""The names of a network's classes: from a file, from the network's metadata, or its config."""

from __future__ import annotations

import ast
import functools
import json
import re
from typing import TYPE_CHECKING, Any

from mataserver import MataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mataserver_onnx.graph import Graph

_MAX_BYTES = 8 * 2**20
_MAX_LABELS = 1_000_000
_MAX_NAMES = 2**20
"""Maximum characters of the names in metadata; those of ImageNet's 21,841 classes have 0.8 MB."""
_MAX_NOTED = 50_000
"""Maximum commas between the names in metadata."""
_STRING = re.compile(r"""'(?:[^'\\\r\n]|\\.)*+'|"(?:[^"\\\r\n]|\\.)*+\"""")
_FLAT = re.compile(r"""[\[({][0-9\s.,:"]*[\])}]""")
"""A list, tuple or dict, its strings left out, that holds no other and no operators."""
_ODD = re.compile(r"""\w"|"["\w]""")
"""A prefix of a string, as ``f``, or three quotes: where such strings end is not known here."""
_SEPARATORS = ("\n", ";", ",")
_NO_SYNTAX = frozenset("[](){}:'\"")
"""Characters that are no part of names without quotes: they belong to some other notation."""


class Labels:
    """Names by index; an index without a name is ``LABEL_<index>``."""

    def __init__(self, names: Mapping[int, str]) -> None:
        """Keep ``names``."""
        self._names = names

    def __getitem__(self, index: int) -> str:
        """Return a class's name. Raises ``MataError`` for an index far beyond the named ones.

        Some families have an output for one class more than they were trained for.
        """
        if self._names and index > max(self._names) + 1:
            raise MataError(
                f"the network found the class {index}, but {len(self._names)} labels are given"
            )
        return self._names.get(index, f"LABEL_{index}")

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._names)

    def all(self) -> list[str] | None:
        """Return the names of all classes that are answered for, by index; None without names."""
        return [self[index] for index in range(max(self._names) + 2)] if self._names else None

    def check(self, classes: int, spare: int = 0) -> None:
        """Raise ``MataError`` when there are names, but not for so many classes.

        ``spare`` is how many classes may follow the named ones. An equal number of names and
        classes is not enough: with names numbered from 1 each class would get its neighbour's.
        """
        known = self._names
        if not known or max(known) + 1 in {classes, classes - spare}:
            return
        if len(known) == classes:
            raise MataError(
                f"the network has the classes 0 to {classes - 1}, but the labels are "
                f"numbered {min(known)} to {max(known)}"
            )
        raise MataError(f"the network has {classes} classes, but {len(known)} labels are given")


def find(
    graph: Graph, config: Mapping[str, Any], file: Path | None, classes: int | None = None
) -> Labels:
    """Return the labels: from ``file``, else the network's metadata, else the config.

    ``classes`` is the number of the network's classes, if it is known. Raises ``MataError`` for a
    file that cannot be used.
    """
    if file is not None:
        return Labels(_from_file(file))
    noted = from_metadata(graph) or _plain_names(graph, classes)
    return Labels(noted or _from_config(config))


def count(graph: Graph, config: Mapping[str, Any]) -> int | None:
    """Return the number of the model's labels, or None without any."""
    return len(from_metadata(graph) or _from_config(config)) or None


def _from_file(file: Path) -> dict[int, str]:
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        text = content.decode("utf-8-sig")  # Windows' editors begin a file with a mark
    except OSError as error:
        raise MataError(f"the labels cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MataError("the file of labels is not UTF-8 text") from error
    if len(content) > _MAX_BYTES:
        raise MataError("the file of labels is too large")
    if file.suffix == ".json":
        return _from_json(text)
    return dict(enumerate(line.strip() for line in text.splitlines() if line.strip()))


def _from_json(text: str) -> dict[int, str]:
    """Read a list of names, an object from index to name, or one that holds ``id2label``."""
    try:
        decoded = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MataError("the file of labels is not valid JSON") from error
    if isinstance(decoded, dict):
        decoded = decoded.get("id2label", decoded)
    found = _by_index(decoded)
    if found is None:
        raise MataError("the file of labels must hold a list of names, or numbers with names")
    return found


def from_metadata(graph: Graph) -> dict[int, str]:
    """Return the names in Ultralytics' metadata: ``names``, a Python dict or list."""
    return _noted(graph) or {}


def are_unreadable(graph: Graph) -> bool:
    """Whether the metadata has ``names`` that are neither a Python dict nor a list."""
    return _noted(graph) is None


def _noted(graph: Graph) -> dict[int, str] | None:
    """Return the names in the metadata, by index; None for those that are in no known form."""
    text = graph.metadata.get("names", "").strip()
    if not text:
        return {}
    return _written(text)


@functools.lru_cache(maxsize=4)  # the names are looked at several times for each task
def _written(text: str) -> dict[int, str] | None:
    """Return the names in a flat dict, list or tuple in Python's notation, or None.

    A stranger's text of a megabyte can be half a million values, which take seconds and hundreds of
    megabytes: how many there are, and that they hold no others, is seen before they are parsed.
    """
    if len(text) > _MAX_NAMES:
        return None
    outline = _STRING.sub('"', text)
    if outline.count(",") > _MAX_NOTED or not _FLAT.fullmatch(outline) or _ODD.search(outline):
        return None
    return _by_index(literal(text))


def literal(text: str) -> Any:
    """Return a value in Python's notation; None for another one."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _plain_names(graph: Graph, classes: int | None) -> dict[int, str]:
    """Return names without quotes in the metadata, as ``cat,dog``, if there is one per class.

    A comma may be part of a name, so another number of them proves nothing.
    """
    text = graph.metadata.get("names", "").strip()
    if classes is None or len(text) > _MAX_NAMES or not are_unreadable(graph):
        return {}
    if not _NO_SYNTAX.isdisjoint(text):
        return {}
    separator = next((each for each in _SEPARATORS if each in text), _SEPARATORS[0])
    found = [part.strip() for part in text.split(separator)]
    return dict(enumerate(found)) if len(found) == classes and all(found) else {}


def _from_config(config: Mapping[str, Any]) -> dict[int, str]:
    named = config.get("id2label") or config.get("label_names")  # the latter is timm's
    return _by_index(named) or {}


def _text(name: object) -> str:
    """Return a name that can be sent; JSON writes an emoji as two halves, which Python keeps."""
    return str(name).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _by_index(given: object) -> dict[int, str] | None:
    """Return names by index, or None for a value that is neither a list nor a dict of them."""
    pairs = enumerate(given) if isinstance(given, list | tuple) else None
    if isinstance(given, dict):
        pairs = given.items()  # type: ignore[assignment] # keys are checked below
    if pairs is None:
        return None
    try:
        found = {int(key): _text(name) for key, name in pairs}
    except (OverflowError, RecursionError, TypeError, ValueError):
        return None
    return found if all(0 <= key < _MAX_LABELS for key in found) else None
