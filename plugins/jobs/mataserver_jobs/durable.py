"""Files that a power failure leaves whole: the old content or the new one, never none."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


_NO_FOLDERS = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP})
"""Errors of file systems that cannot be asked to write a folder, such as SMB."""


def sync(path: Path) -> None:
    """Have a file's content, or a folder's entries where that can be asked for, on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDERS or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; it is on the disk when this returns."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    sync(fresh)  # first: else the disk may have the new name before the content, an empty file
    fresh.replace(path)
    sync(path.parent)
