"""The directory of exported models: nothing in it is half made, and nothing stays unused.

Every directory in it is locked by whoever makes it, from its first file until it is registered.
What is neither locked nor registered was left by a process that was killed, or belonged to a model
that was removed: the next sweep deletes it.
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

_ODD = re.compile(r"[^A-Za-z0-9._-]+")
_PART = ".part"


class Workshop:
    """The exported models of one data directory; ``used`` returns those that are registered."""

    def __init__(self, directory: Path, used: Callable[[], Iterable[Path]]) -> None:
        self._directory = directory
        self._used = used

    def place(self, name: str, origin: Path, *marks: str) -> Path:
        """Return where the export of a model belongs.

        It is another one when the model's files, or the ``marks`` of what exports it, change.
        """
        digest = hashlib.sha256("\0".join((str(origin), *marks)).encode())
        for file in sorted(origin.rglob("*")):
            if file.is_file():
                status = file.stat()
                line = f"{file.relative_to(origin)} {status.st_size} {status.st_mtime_ns}"
                digest.update(line.encode())
        return self._directory / f"{_ODD.sub('-', name)[-80:]}-{digest.hexdigest()[:16]}"

    @contextlib.contextmanager
    def bench(self, place: Path) -> Iterator[Path | None]:
        """Hold ``place`` until the context ends, which is the time to register what is there.

        Yields an empty directory to fill and ``finish``, or None if it is finished already. Then
        everything that is not registered is deleted. Raises ``Conflict`` while another process
        holds it, and ``MataError`` when the disk refuses.
        """
        part = place.with_name(place.name + _PART)
        try:
            with self._told(), self._entrance():
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
            with contextlib.suppress(MataError):  # the next one sweeps what this one could not
                self.sweep()

    def finish(self, part: Path) -> Path:
        """Give a directory that is filled its name; return it."""
        place = part.with_name(part.name.removesuffix(_PART))
        with self._told():
            self._give_to_owner(part, *part.rglob("*"))
            return part.rename(place)

    def sweep(self) -> None:
        """Delete what is neither registered nor being made."""
        if not self._directory.is_dir():
            return
        with self._told(), self._entrance():
            found = [each for each in self._directory.iterdir() if each.is_dir()]
            free = [each for each in found if _is_free(each)]
            # By name: the way to the data directory may be another one elsewhere.
            kept = {path.name for path in self._used()}
            for each in free:
                if each.name not in kept:
                    shutil.rmtree(each, ignore_errors=True)

    @contextlib.contextmanager
    def _entrance(self) -> Iterator[None]:
        """Let one process at a time make a directory and lock it, or look what is locked."""
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
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or type(error).__name__
            hint = f"{self._directory}; the setting data_dir names the directory"
            raise MataError(f"exported models cannot be written: {reason}", hint=hint) from error

    def _give_to_owner(self, *paths: Path) -> None:
        # `sudo mataserver export` must not leave what the server's own user cannot read.
        if os.geteuid() == 0:
            owner = self._directory.parent.stat()
            for path in paths:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _lock(directory: Path) -> int:
    """Lock a directory; it is free again when the returned descriptor is closed."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_free(directory: Path) -> bool:
    """Whether nobody holds a directory, or there is none."""
    try:
        os.close(_lock(directory))
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
