"""What in a model's directory refers to other files: it must not lead outside the model's files.

A checkpoint comes from a third party. A link to a file elsewhere, or an index that names one, would
make the server read what its user may read and the model's author may not.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import msgspec

from mataserver.errors import BadRequest

_INDEX = re.compile(r"\.(safetensors|bin)\.index\.([\w-]+\.)?json", re.IGNORECASE)
"""Names of indices: transformers opens any that ``config.json`` names, diffusers also variants."""
_MAX_INDEX_BYTES = 16_000_000


class _Index(msgspec.Struct):
    """The index of a checkpoint in several parts: the file of each weight."""

    weight_map: dict[str, str] = {}


class OutsideLinkError(BadRequest):
    """400: a symbolic link or an index of a model leads outside; the detail names it."""


def check_links(path: Path) -> None:
    """Check every link and index below a model's directory; a single file was resolved earlier.

    A link must end inside the directory, or for a snapshot of the hub's cache inside the ``blobs``
    of the same repository. An index of weights must name files inside the directory. Raises
    ``OutsideLinkError``.
    """
    if not path.is_dir():
        return
    root = path.resolve()
    allowed = [root]
    if root.parent.name == "snapshots" and root.parents[1].name.startswith("models--"):
        allowed.append(root.parents[1] / "blobs")
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            link = Path(folder, name)
            if link.is_symlink() and not _leads_into(link, allowed):
                raise OutsideLinkError(
                    f"{link.relative_to(root)} is a link that leads out of the model's directory"
                )
        for name in files:
            if _INDEX.search(name) and Path(folder, name).is_file():  # opening a pipe would wait
                _check_index(Path(folder, name), root)


def _check_index(index: Path, root: Path) -> None:
    """Refuse an index of files elsewhere, and one that cannot be read: another parser might."""
    shown = index.relative_to(root)
    try:
        with index.open("rb") as file:
            content = file.read(_MAX_INDEX_BYTES + 1)
        named = set(msgspec.json.decode(content, type=_Index).weight_map.values())
    except (OSError, ValueError, RecursionError) as error:
        raise OutsideLinkError(f"{shown} is no index of a checkpoint's weights") from error
    if any(place.is_absolute() or ".." in place.parts for place in map(Path, named)):
        raise OutsideLinkError(f"{shown} names a file outside of the model's directory")


def _leads_into(link: Path, allowed: list[Path]) -> bool:
    try:
        end = link.resolve()
        end.stat()
    except (OSError, RuntimeError) as error:  # Python 3.13 resolves a cycle without an error
        if isinstance(error, RuntimeError) or error.errno == errno.ELOOP:
            return False
    return any(end.is_relative_to(directory) for directory in allowed)
