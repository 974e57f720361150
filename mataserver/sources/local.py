"""Models that are on this machine already: a directory or a single file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mataserver.errors import BadRequest

# The largest published ones, with 21,000 class names, take 2 MB.
MAX_CONFIG_BYTES = 8 * 1024 * 1024


def read_config(path: Path) -> dict[str, Any]:
    """Return ``config.json`` of the model directory ``path``.

    Empty for a single file and for a directory without one. Raises ``BadRequest`` when the path
    is gone or the configuration cannot be read.
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

    Published ones hold ``Infinity`` now and then, so this is Python's JSON and not the strict one.
    Raises ``BadRequest``.
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
    """Return the size in bytes of a file, or of all files in a directory; None if it is gone."""
    if path.is_file():
        return path.stat().st_size
    if not path.is_dir():
        return None
    files = (Path(root, name) for root, _, names in os.walk(path) for name in names)
    return sum(file.stat().st_size for file in files if file.is_file())
