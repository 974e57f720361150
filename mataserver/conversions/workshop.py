"""The directory of converted models: nothing in it is half made, and nothing stays unused.

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
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

from mataserver.errors import Conflict, MataError
from mataserver.storage import told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mataserver.registry import Registry

_ODD = re.compile(r"[^A-Za-z0-9._-]+")
_PART = ".part"


class Workshop:
    """The converted models of one data directory."""

    def __init__(self, directory: Path, registry: Registry) -> None:
        self._directory = directory
        self._registry = registry

    def place(self, name: str, origin: Path, *marks: str) -> Path:
        """Return where the conversion of a model belongs.

        It is another one when the model's files, or the ``marks`` of what converts it, change.
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
                    raise Conflict("the same model is being converted by another process")
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
            kept = {  # by name: the way to the data directory may be another one elsewhere
                Path(entry.converted).name
                for entry in self._registry.entries().values()
                if entry.converted is not UNSET
            }
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

    def _told(self) -> contextlib.AbstractContextManager[None]:
        return told("converted models cannot be written", self._directory)

    def _give_to_owner(self, *paths: Path) -> None:
        # `sudo mataserver pull` must not leave what the server's own user cannot read.
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
