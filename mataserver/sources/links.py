"""Links in a model's directory: they must end where the model's own files are.

A checkpoint is somebody else's work. A link in it to a file elsewhere would have the server read
what its owner may read and the model's author may not.
"""

from __future__ import annotations

import os
from pathlib import Path

from mataserver.errors import BadRequest


class StrayLink(BadRequest):
    """400: a link of a model leads out of the model; the detail names it."""


def check_links(path: Path) -> None:
    """Check every link below a model's directory; a single file was resolved when it came.

    A link ends inside the directory, or in a snapshot of the hub's cache inside the ``blobs`` of
    the same repository. Raises ``StrayLink``.
    """
    if not path.is_dir():
        return
    root = path.resolve()
    homes = [root]
    if root.parent.name == "snapshots" and root.parents[1].name.startswith("models--"):
        homes.append(root.parents[1] / "blobs")
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            link = Path(folder, name)
            if link.is_symlink() and not _ends_in(link, homes):
                raise StrayLink(
                    f"{link.relative_to(root)} is a link that leads out of the model's directory"
                )


def _ends_in(link: Path, homes: list[Path]) -> bool:
    try:
        end = link.resolve()
    except (OSError, RuntimeError):  # it leads to itself
        return False
    return any(end.is_relative_to(home) for home in homes)
