"""The file ``metadata.yaml`` that Ultralytics writes beside a network for OpenVINO.

It holds what an ONNX file has in itself. It may be a stranger's, and the server reads it. Other
programs write files of this name too, which say nothing of a network.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from mataserver import MataError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NAME = "metadata.yaml"
_MAX_BYTES = 2**18
_KEYS = frozenset({"names", "task", "stride"})
"""Ultralytics writes all three."""
_LINE = re.compile(rb"^(names|task|stride):", re.MULTILINE)


def read(directory: Path) -> dict[str, str] | None:
    """Return the entries as an ONNX file would hold them; none without the file.

    None is returned for a file that is not Ultralytics'. Raises ``MataError`` for one of theirs
    that cannot be used, and for one that cannot be opened. Unchanged files are cached.
    """
    file = directory / NAME
    try:
        if not file.is_file():
            return {}
        status = file.stat()
        found = _read(file, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise MataError(f"the model's {NAME} cannot be read") from error
    if isinstance(found, str):
        raise MataError(found)
    return found


@functools.lru_cache(maxsize=16)
def _read(file: Path, _changed: int, _size: int) -> dict[str, str] | str | None:
    """Return a file's entries or, kept as well, what is wrong with it.

    Each task asks, and 256 KB may take two seconds: YAML is read in Python.
    """
    with file.open("rb") as stream:
        content = stream.read(_MAX_BYTES + 1)
    try:
        decoded = _decode(content)
    except MataError as error:
        ours = _are_ultralytics(key.decode() for key in _LINE.findall(content))
        return error.detail if ours else None
    if decoded is None or not _are_ultralytics(decoded):
        return None
    return decoded


def _are_ultralytics(keys: Iterable[Any]) -> bool:
    """Whether a file with ``keys`` is Ultralytics', perhaps changed by its owner."""
    return len(_KEYS.intersection(keys)) > 1


def _decode(content: bytes) -> dict[str, str] | None:
    """Return the entries of YAML as texts; None for other YAML. Raises ``MataError``."""
    import yaml

    class Loader(yaml.SafeLoader):
        """One that refuses aliases, which can stand for any amount of text, and tags.

        Ultralytics writes neither, and PyYAML raises anything for a tag that its value is not of.
        """

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
                raise yaml.YAMLError("an alias or a tag")
            return super().compose_node(parent, index)

    if len(content) > _MAX_BYTES:
        raise MataError(f"the model's {NAME} is too large")
    try:
        decoded = yaml.load(content, Loader)  # noqa: S506 - a safe one
        entries = decoded.items() if isinstance(decoded, dict) else None
        return None if entries is None else {str(key): str(value) for key, value in entries}
    except (OverflowError, RecursionError, ValueError, yaml.YAMLError) as error:
        raise MataError(f"the model's {NAME} cannot be read") from error
