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
from pathlib import Path
from typing import TYPE_CHECKING

from mataserver import Conflict, MataError, OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 1 << 20
KEEP_SECONDS = 86_400.0
"""How long an unfinished upload, and a file that no version has, is kept: also the folder of a
request to another machine, whose locks need not be seen here, and whose clock may differ."""
UNHELD_SECONDS = 60.0
"""How old the folder of a request to this machine must be that no server holds: one that was killed
left it. A server locks its own only once it is there."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


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

    @contextlib.contextmanager
    def upload_folder(self) -> Iterator[Path]:
        """Give an empty folder for an upload; it is removed in the end."""
        made = self._root / "uploads" / f"{boot()}.{uuid.uuid4()}"
        made.mkdir(parents=True, mode=0o700)
        held = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        """Remove old files that no version has, and what was never finished."""
        old = time.time() - KEEP_SECONDS
        for path in [*self._root.glob("blobs/*/*"), *self._root.glob("unfinished/*")]:
            with contextlib.suppress(FileNotFoundError):
                if path.name not in used and path.stat().st_mtime < old:
                    path.unlink()
        for path in self._root.glob("uploads/*"):
            with contextlib.suppress(FileNotFoundError):
                age = time.time() - path.stat().st_mtime
                if age > KEEP_SECONDS or (age > UNHELD_SECONDS and _is_left(path)):
                    shutil.rmtree(path, ignore_errors=True)

    def _check_space(self, folder: Path, more: int) -> None:
        taken = sum(path.stat().st_size for path in folder.iterdir())
        if taken + more > self._unfinished:
            raise OutOfMemory("Unfinished uploads use all of their space: finish one or wait")


def boot() -> str:
    """Return the id of this machine's boot: that of all processes which see each other's locks."""
    return _BOOT.read_text(encoding="ascii").strip()


def _is_left(folder: Path) -> bool:
    """Whether a server of this machine made the folder of a request, and none has it any more."""
    return folder.name.startswith(f"{boot()}.") and not _is_held(folder)


def _is_held(folder: Path) -> bool:
    """Whether a server has the folder of a request; true where nothing tells."""
    try:
        looked_at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(looked_at, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(looked_at)
    return False
