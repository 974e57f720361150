"""The bytes of an upload as they come: added to its file, and checked against their checksum."""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import os
from typing import TYPE_CHECKING

from mataserver import BadRequest, Conflict, MataError, sync
from mataserver_jobs import durable

if TYPE_CHECKING:
    import io
    from pathlib import Path

ALGORITHMS = ("sha1", "sha256")
"""The checksums that a part of an upload may have."""


_UNCHECKED = "unchecked"
"""The file beside the bytes that says from where on they are not checked yet."""


class TooLarge(MataError):
    """413: the upload, or a part of it, is larger than it may be."""

    status = 413


class Locked(MataError):
    """423: another request of another server writes this upload now."""

    status = 423


class Mismatch(MataError):
    """460: the bytes are not those of the checksum."""

    status = 460


class Writer:
    """Adds bytes to an upload's file.

    What has a checksum counts when it is whole and right, the rest as it comes. Until then a mark
    tells where it begins, also after a server that was killed meanwhile.
    """

    def __init__(
        self, path: Path, length: int, offset: int, digest: tuple[str, bytes] | None
    ) -> None:
        self._path = path
        self._file = path.open("r+b", buffering=0)
        self._length = length
        self._begun = offset
        self._wanted = b"" if digest is None else digest[1]
        self._hash = None if digest is None else hashlib.new(digest[0], usedforsecurity=False)
        self._counts = digest is None
        try:
            self._take(offset)
        except BaseException:
            self._file.close()
            raise
        self.offset = offset

    def _take(self, offset: int) -> None:
        if not locks(self._file):
            raise Locked("Another request writes this upload now")
        if (begun := _unchecked_from(self._path)) is not None:  # a killed server's
            # Not longer: a power failure may have taken bytes that were not on the disk yet.
            self._cut(min(begun, self._file.seek(0, os.SEEK_END)))
        if (end := self._file.seek(0, os.SEEK_END)) != offset:
            raise Conflict(f"The upload goes on at {end}, not at {offset}")
        if self._hash is not None:
            durable.replace(self._mark, str(offset).encode())

    @property
    def _mark(self) -> Path:
        return self._path.with_name(_UNCHECKED)

    def _cut(self, size: int) -> None:
        """Remove what does not count, from the disk too before its mark goes."""
        self._file.truncate(size)
        os.fsync(self._file.fileno())
        self._unmark()

    def _unmark(self) -> None:
        """Remove the mark; one that a power failure brought back would take later bytes away."""
        with contextlib.suppress(FileNotFoundError):  # the upload is removed
            self._mark.unlink()
            sync(self._mark.parent)

    def close(self) -> None:
        """End; what does not count is removed."""
        try:
            if not self._counts:
                self._cut(self._begun)
        finally:
            self._file.close()

    def write(self, data: bytes) -> None:
        """Add bytes. Raises ``TooLarge`` beyond the upload's length."""
        left = memoryview(data)[: self._length - self.offset]
        beyond = len(left) < len(data)
        while left:
            count = self._file.write(left)
            if self._hash is not None:
                self._hash.update(left[:count])
            self.offset += count
            left = left[count:]
        if beyond:
            raise TooLarge(f"The upload has {self._length} bytes, and more were sent")

    def finish(self) -> None:
        """Have all of it count, and on the disk. Raises ``Mismatch`` for a wrong checksum."""
        if self._hash is not None and self._hash.digest() != self._wanted:
            raise Mismatch("The bytes are not those of the checksum: send them again")
        os.fsync(self._file.fileno())
        if self._hash is not None:
            self._unmark()
        self._counts = True


def counted(path: Path) -> int:
    """Return how many bytes of an upload's file count. Raises ``OSError`` without the file."""
    size, begun = path.stat().st_size, _unchecked_from(path)
    return size if begun is None else min(begun, size)


def _unchecked_from(path: Path) -> int | None:
    """Return where the bytes begin that are not checked yet; None if all are."""
    with contextlib.suppress(FileNotFoundError):
        mark = path.with_name(_UNCHECKED).read_bytes()
        return int(mark) if mark.isdigit() else 0
    return None


def locks(file: io.FileIO) -> bool:
    """Lock a file against other requests, also of other servers; False where it is locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def digest_of(checksum: str) -> tuple[str, bytes] | None:
    """Return the algorithm and the digest of ``Upload-Checksum``; None for none of it."""
    if not checksum:
        return None
    name, _, text = checksum.partition(" ")
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if (
        name not in ALGORITHMS
        or len(digest) != hashlib.new(name, usedforsecurity=False).digest_size
    ):
        raise BadRequest(
            f"Upload-Checksum: one of {', '.join(ALGORITHMS)} and the digest in base64"
        )
    return name, digest
