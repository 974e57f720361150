"""Which files of the server's machine a job may read: those below the folders of a setting.

Looked at when a job is asked for and again when it runs: a link may have been changed meanwhile.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mataserver import NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence


def allowed(path: str, roots: Sequence[str]) -> Path:
    """Return where a path leads. Raises ``NotFound`` unless that is below one of ``roots``."""
    if not roots:
        raise NotFound(
            "path: jobs may not read folders here: plugins.jobs.roots lists those they may"
        )
    try:
        found = Path(path).resolve(strict=True)
        str(found).encode()  # a name that is no text cannot be kept
    except (OSError, ValueError, RuntimeError):
        found = None
    if found is None or not any(found.is_relative_to(Path(root).resolve()) for root in roots):
        raise NotFound(
            "path: there is no such file below the folders that jobs may read, which "
            "plugins.jobs.roots names"
        )
    return found
