"""Writes to the data or shared directory, and operating system errors there as API errors."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mataserver.config import PREFIX
from mataserver.errors import MataError, shortage_error

if TYPE_CHECKING:
    from collections.abc import Iterator


_NO_DIRECTORIES = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP})
"""Errors of file systems that cannot be asked to write a directory, such as SMB."""


def sync(path: Path) -> None:
    """Write a file's content, or a directory's entries where that can be asked for, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORIES or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def temporary_file(folder: Path, prefix: str, suffix: str) -> Iterator[tuple[BinaryIO, Path]]:
    """Yield a new file to write, readable by our own user only, and its path.

    It is removed if the context fails: else a full disk would collect one each time.
    """
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=suffix)
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def os_errors_as(failure: str, path: Path, kind: type[MataError] = MataError) -> Iterator[None]:
    """Convert an ``OSError`` to ``kind``, with ``failure`` and the system's reason as its detail.

    A full disk is answered 507, and a lack of file descriptors 503, whatever ``kind`` is.
    The hint, for the operator only, names the path and the setting that determines it.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        setting = f"the setting data_dir, {PREFIX}DATA_DIR, or shared_dir where it is set"
        hint = f"{path}; {setting}, names the directory"
        shortage = shortage_error(error)
        status, later = (
            (None, None) if shortage is None else (shortage.status, shortage.retry_after)
        )
        raise kind(f"{failure}: {reason}", status=status, retry_after=later, hint=hint) from error


def check_writable(directory: Path) -> None:
    """Raise ``MataError`` unless a directory exists or can be created, and files can be written.

    Writes a byte to a temporary file in it, or in the nearest parent that exists.
    """
    with os_errors_as("could not write to the directory", directory):
        place = next(each for each in (directory, *directory.parents) if each.exists())
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"0")
