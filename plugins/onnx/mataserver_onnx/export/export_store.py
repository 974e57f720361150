"""The directory of exported models, without incomplete or unused ones.

Each directory in it is locked by the process that makes it, from its first file until it is
registered. One that is neither locked nor registered was left by a process that was killed, or
belonged to a model that was removed: the next ``delete_unused`` deletes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from typing import TYPE_CHECKING

from mataserver import Conflict, MataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_PART_SUFFIX = ".part"


class ExportStore:
    """The exported models of one data directory; ``used`` returns those that are registered."""

    def __init__(self, directory: Path, used: Callable[[], Iterable[Path]]) -> None:
        self._directory = directory
        self._used = used

    def path_for(self, name: str, origin: Path, *marks: str) -> Path:
        """Return the path for the export of a model.

        It changes when the model's files, or the ``marks`` of the exporter, change.
        """
        digest = hashlib.sha256("\0".join((str(origin), *marks)).encode())
        for file in sorted(origin.rglob("*")):
            if file.is_file():
                status = file.stat()
                line = f"{file.relative_to(origin)} {status.st_size} {status.st_mtime_ns}"
                digest.update(line.encode())
        return self._directory / f"{_UNSAFE.sub('-', name)[-80:]}-{digest.hexdigest()[:16]}"

    @contextlib.contextmanager
    def claim(self, place: Path) -> Iterator[Path | None]:
        """Lock ``place`` until the context ends; register the export within it.

        Yields an empty directory to fill and ``publish``, or None if it is finished already. At the
        end everything that is not registered is deleted. Raises ``Conflict`` while another process
        has the lock, and ``MataError`` when the directory cannot be written.
        """
        part = place.with_name(place.name + _PART_SUFFIX)
        try:
            with self._as_mata_error(), self._directory_lock():
                if not (_is_free(part) and _is_free(place)):
                    raise Conflict("the same model is being exported by another process")
                finished = place.is_dir()
                if not finished:
                    shutil.rmtree(part, ignore_errors=True)
                    part.mkdir()
                descriptor = _lock(place if finished else part)
            try:
                yield None if finished else part
            finally:
                os.close(descriptor)
        finally:
            with contextlib.suppress(MataError):  # the next call deletes what this one could not
                self.delete_unused()

    def publish(self, part: Path) -> Path:
        """Rename a filled directory to its final name; return that."""
        place = part.with_name(part.name.removesuffix(_PART_SUFFIX))
        with self._as_mata_error():
            self._give_to_owner(part, *part.rglob("*"))
            return part.rename(place)

    def delete_unused(self) -> None:
        """Delete directories that are neither registered nor locked."""
        if not self._directory.is_dir():
            return
        with self._as_mata_error(), self._directory_lock():
            found = [each for each in self._directory.iterdir() if each.is_dir()]
            free = [each for each in found if _is_free(each)]
            # Compared by name: the path of the data directory may differ (mounts, links).
            kept = {path.name for path in self._used()}
            for each in free:
                if each.name not in kept:
                    shutil.rmtree(each, ignore_errors=True)

    @contextlib.contextmanager
    def _directory_lock(self) -> Iterator[None]:
        """Serialize, between processes, the creation of directories and the check for locks."""
        for directory in (self._directory.parent, self._directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self._directory / ".lock"
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._give_to_owner(self._directory, lock)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _as_mata_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or type(error).__name__
            hint = f"{self._directory}; the setting data_dir names the directory"
            raise MataError(f"exported models cannot be written: {reason}", hint=hint) from error

    def _give_to_owner(self, *paths: Path) -> None:
        # `sudo mataserver export` must not leave files that the server's user cannot read.
        if os.geteuid() == 0:
            owner = self._directory.parent.stat()
            for path in paths:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _lock(directory: Path) -> int:
    """Lock a directory; closing the returned descriptor unlocks it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_free(directory: Path) -> bool:
    """Whether a directory is not locked, or does not exist."""
    try:
        os.close(_lock(directory))
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
