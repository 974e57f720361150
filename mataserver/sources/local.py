"""Models on this machine: a directory or a single file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mataserver.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

# The largest published ones, with 21,000 class names, have 2 MB.
MAX_CONFIG_BYTES = 8 * 1024 * 1024


def read_config(path: Path) -> dict[str, Any]:
    """Return ``config.json`` of the model directory ``path``.

    Empty for a single file and for a directory without one. Raises ``BadRequest`` if the path is
    missing or the configuration cannot be read.
    """
    try:
        if not path.is_dir():
            path.stat()
            return {}
        file = path / "config.json"
        if not file.is_file():
            return {}
        with file.open("rb") as stream:
            content = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise BadRequest(f"the model's files cannot be read: {reason}") from error
    return parse_config(content)


def parse_config(content: bytes | str) -> dict[str, Any]:
    """Decode a ``config.json``.

    Some published ones contain ``Infinity``, so this uses Python's lenient JSON decoder. Raises
    ``BadRequest``.
    """
    if len(content) > MAX_CONFIG_BYTES:
        raise BadRequest("the model's config.json is too large")
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the model's config.json is not valid JSON") from error
    if not isinstance(config, dict):
        raise BadRequest("the model's config.json is not a JSON object")
    return config


def size_of(path: Path) -> int | None:
    """Return the size in bytes of a file, or of all files in a directory; None if missing."""
    if path.is_file():
        return path.stat().st_size
    if not path.is_dir():
        return None
    return sum(file.stat().st_size for file in files_below(path) if file.is_file())


def edition_of(path: Path) -> str:
    """Return an identifier of the version of a model's files, to detect replacement.

    It is based on sizes and times, not contents: weights are large. Files beside a single file are
    included, such as labels or the external weights of an ONNX file.
    """
    digest = hashlib.sha256()
    with contextlib.suppress(OSError):  # ignores what cannot be listed
        for file in sorted(files_below(path) if path.is_dir() else path.parent.iterdir()):
            digest.update(stamp(file).encode())
    return digest.hexdigest()


def stamp(file: Path) -> str:
    """Return a file's or directory's path, size and times as a line of text."""
    try:
        status = file.stat()
    except OSError:  # a broken link, or removed concurrently
        return f"{file}\n"
    return f"{file} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n"


def files_below(directory: Path) -> Iterator[Path]:
    """Yield the files below a directory, links to files included."""
    return (Path(root, name) for root, _, names in os.walk(directory) for name in names)
