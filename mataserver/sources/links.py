"""Symbolic links in a model's directory: they must not lead outside the model's files.

A checkpoint comes from a third party. A link to a file elsewhere would make the server read what
its user may read and the model's author may not.
"""

from __future__ import annotations

import os
from pathlib import Path

from mataserver.errors import BadRequest


class OutsideLinkError(BadRequest):
    """400: a symbolic link of a model leads outside; the detail names it."""


def check_links(path: Path) -> None:
    """Check every symbolic link below a model's directory; a single file was resolved earlier.

    A link must end inside the directory, or for a snapshot of the hub's cache inside the ``blobs``
    of the same repository. Raises ``OutsideLinkError``.
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


def _leads_into(link: Path, allowed: list[Path]) -> bool:
    try:
        end = link.resolve()
    except (OSError, RuntimeError):  # a cycle
        return False
    return any(end.is_relative_to(directory) for directory in allowed)
