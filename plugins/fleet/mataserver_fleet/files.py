"""Models' files by what is in them: each is kept once, under its sha256. Every method blocks."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mataserver import Conflict, MataError, OutOfMemory
from mataserver_database import boot, hold, is_left

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CHUNK = 1 << 20
KEEP_SECONDS = 86_400.0
"""How long an unfinished upload in chunks, and a file that no version has, is kept."""


class WrongOffset(Conflict):
    """409: a chunk that does not follow the last one."""

    def __init__(self, expected: int) -> None:
        super().__init__(f"offset: {expected} is expected")
        self.expected = expected


@dataclass(frozen=True)
class Blob:
    """A file that is kept: its sha256 in hex, and its bytes."""

    digest: str
    size: int


class FileStore:
    """What is below ``root``. ``unfinished`` bytes are what uploads in chunks may take in all."""

    def __init__(self, root: Path, *, unfinished: float) -> None:
        self._root = root
        self._unfinished = unfinished
        self._seen: dict[Path, float] = {}

    @contextlib.contextmanager
    def upload_folder(self) -> Iterator[Path]:
        """Give an empty folder for an upload; it is removed in the end."""
        made = self._root / "uploads" / f"{boot()}.{uuid.uuid4()}"
        made.mkdir(parents=True, mode=0o700)
        held = hold(made)
        try:
            yield made
        finally:
            os.close(held)
            shutil.rmtree(made, ignore_errors=True)

    def keep(self, path: Path) -> Blob:
        """Move a file in, unless it is one that is kept; one with the same content is kept once."""
        if path == self.path(path.name):
            os.utime(path)  # new again for ``clean_up``
            return Blob(path.name, path.stat().st_size)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size, target = path.stat().st_size, self.path(digest)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.replace(target)  # of the same content, and it is new again for ``clean_up``
        os.utime(target)
        return Blob(digest, size)

    def path(self, digest: str) -> Path:
        """Return where a file is kept."""
        return self._root / "blobs" / digest[:2] / digest

    def append(self, upload: str, chunk: Path, offset: int, max_bytes: int) -> tuple[Path, int]:
        """Add a chunk to an upload of ``max_bytes`` bytes; return its file and how large it is now.

        Raises ``WrongOffset``, 413 for one that is larger, ``OutOfMemory`` (507) where unfinished
        uploads take too much.
        """
        folder = self._root / "unfinished"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = folder / hashlib.sha256(upload.encode()).hexdigest()
        with target.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # two may send the same chunk at the same time
            size = os.fstat(file.fileno()).st_size
            if offset not in {0, size}:
                raise WrongOffset(size)
            more = chunk.stat().st_size
            if offset + more > max_bytes:
                raise MataError(f"The file is over the limit of {max_bytes} bytes", status=413)
            self._check_space(folder, more)
            file.truncate(offset)  # 0 begins anew
            try:
                with chunk.open("rb") as piece:
                    shutil.copyfileobj(piece, file, _CHUNK)
                file.flush()
            except OSError:
                os.ftruncate(file.fileno(), offset)
                raise
            return target, offset + more

    def clean_up(self, used: set[str]) -> None:
        """Remove old files that no version has, and what was never finished.

        Only what is as it was at the last look: when the clock is set, by decades perhaps, all
        seems old at once, also what is being uploaded.
        """
        old, before, self._seen = time.time() - KEEP_SECONDS, self._seen, {}
        for path in [*self._root.glob("blobs/*/*"), *self._root.glob("unfinished/*")]:
            with contextlib.suppress(FileNotFoundError):
                if path.name in used:
                    continue
                written = path.stat().st_mtime
                if written < old and before.get(path) == written:
                    path.unlink()
                else:
                    self._seen[path] = written
        for path in self._root.glob("uploads/*"):
            with contextlib.suppress(FileNotFoundError):
                if is_left(path, path.name.partition(".")[0]):
                    shutil.rmtree(path, ignore_errors=True)

    def _check_space(self, folder: Path, more: int) -> None:
        taken = sum(path.stat().st_size for path in folder.iterdir())
        if taken + more > self._unfinished:
            raise OutOfMemory("Unfinished uploads use all of their space: finish one or wait")
