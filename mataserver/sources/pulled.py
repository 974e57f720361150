"""The models of plugins' sources on disk: ``pulled`` in the folder of the registry.

Layout: ``pulled/SOURCE/MODEL/VERSION/`` with ``files/`` and ``model.json``. A pull writes to a
directory of its own, ``NAME.partial``, which is renamed once the server has checked it: a version
is complete or not there. The newest version is the model; the one before stays until the next
pull, since workers may still read it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mataserver.config.storage import os_errors_as, sync
from mataserver.errors import BadRequest
from mataserver.sources.links import check_links
from mataserver.sources.local import files_below

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = "pulled"
_FILES = "files"
_MARK = "model.json"
_LOCK = "lock"
_PARTIAL = ".partial"
_NEW = ".new"
_NEW_SECONDS = 60.0
"""How old a folder must be that has no lock yet to be one of a killed pull."""


class _Mark(msgspec.Struct):
    """``model.json``: what a version is, for people, and the file that is served, if not all."""

    source: str
    reference: str
    file: str | None


class PartialModel:
    """A version that is being pulled; ``folder`` takes its files."""

    def __init__(self, models: PulledModels, place: Path, mark: _Mark, kept: Path | None) -> None:
        self._models = models
        self._kept = kept
        self._directory = place / f"{time.time_ns()}{_PARTIAL}"
        self._mark = mark
        self._lock: int | None = None
        self._is_accepted = False
        self.folder = self._directory / _FILES

    def __str__(self) -> str:
        """Return the model's name."""
        return f"{self._mark.source}:{self.reference}"

    @property
    def reference(self) -> str:
        """The model's reference at its source."""
        return self._mark.reference

    @property
    def former(self) -> Path | None:
        """The path of the model as it is now, if it was pulled before."""
        return self._models.cached(self._mark.source, self.reference)

    def begin(self) -> None:
        """Create the folder; remove what killed pulls left, and outdated versions.

        Raises ``MataError`` if the disk refuses.
        """
        place = self._directory.parent
        with os_errors_as("could not write the pulled models", place):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._models.remove_leftovers()
            for outdated in _versions(place)[:-1]:
                if self._kept is None or not self._kept.is_relative_to(outdated):
                    _remove(outdated)
            # Locked before it has its name: a partial version without a lock is a leftover.
            made = self._directory.with_suffix(_NEW)
            (made / _FILES).mkdir(parents=True)
            self._lock = os.open(made / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            made.rename(self._directory)

    def check(self, file: str | None) -> Path:
        """Check what arrived; return the path to serve: ``file`` or the folder.

        Raises ``BadRequest`` for no files, links that lead outside, and what is no file.
        """
        self._mark.file = file
        found = list(files_below(self.folder))
        if not found:
            raise BadRequest("the source stored no file")
        check_links(self.folder)
        _check_kinds(self.folder, found)
        path = self.folder if file is None else self.folder / file
        if file is not None and (
            not path.is_file() or not path.resolve().is_relative_to(self.folder.resolve())
        ):
            raise BadRequest(f"the source stored no file {file}")
        return path

    def complete(self) -> Path:
        """Write everything to the disk, and make it the model's newest version. Return its path."""
        # Of pulls beside each other, the one that ends last is the newest.
        target = self._directory.with_name(f"{time.time_ns()}")
        with os_errors_as("could not write the pulled models", self._directory):
            (self._directory / _MARK).write_bytes(msgspec.json.encode(self._mark) + b"\n")
            for folder, _, names in os.walk(self._directory, topdown=False):
                for path in (*(Path(folder, name) for name in names), Path(folder)):
                    if not path.is_symlink():
                        sync(path)
            _give_to_owner(target.parents[2], self._directory)
            self._directory.rename(target)
            self._directory = target
            (target / _LOCK).unlink()
            sync(target.parent)
        return _served(target, self._mark)

    def accept(self) -> None:
        """Keep the complete version: the pull was not cancelled meanwhile."""
        self._is_accepted = True

    def discard(self) -> None:
        """Remove what arrived, unless it was accepted."""
        if not self._is_accepted:
            _remove(self._directory)
        if self._lock is not None:
            os.close(self._lock)


class PulledModels:
    """The models of plugins' sources below ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def cached(self, source: str, reference: str) -> Path | None:
        """Return the path of a model's newest complete version, or None."""
        versions = _versions(self._place(source, reference))
        if not versions:
            return None
        try:
            mark = msgspec.json.decode((versions[-1] / _MARK).read_bytes(), type=_Mark)
        except (OSError, msgspec.DecodeError):
            return None
        path = _served(versions[-1], mark)
        return path if path.exists() else None

    def new(self, source: str, reference: str, kept: Path | None = None) -> PartialModel:
        """Return a new version, which does not exist yet; the one with ``kept`` stays."""
        place = self._place(source, reference)
        return PartialModel(self, place, _Mark(source, reference, None), kept)

    def remove_leftovers(self) -> None:
        """Remove the partial versions of killed pulls; the lock of a running one is held."""
        for directory in self._root.glob(f"*/*/*{_PARTIAL}"):
            with contextlib.suppress(OSError), _unlocked(directory / _LOCK):
                _remove(directory)
        for directory in self._root.glob(f"*/*/*{_NEW}"):
            with contextlib.suppress(OSError):
                if time.time() - directory.stat().st_mtime > _NEW_SECONDS:
                    _remove(directory)

    def _place(self, source: str, reference: str) -> Path:
        """Return a model's folder: a readable part of its reference, and a hash of all of it."""
        shown = re.sub(r"[^A-Za-z0-9._-]+", "-", reference)[:80].lstrip(".")
        digest = hashlib.sha256(reference.encode()).hexdigest()[:16]
        return self._root / source / f"{shown}-{digest}"


def _served(version: Path, mark: _Mark) -> Path:
    return version / _FILES if mark.file is None else version / _FILES / mark.file


def _versions(place: Path) -> list[Path]:
    """Return a model's complete versions, oldest first."""
    try:
        names = [each.name for each in place.iterdir() if each.name.isdigit()]
    except OSError:
        return []
    return [place / name for name in sorted(names, key=int)]


def _remove(directory: Path) -> None:
    """Remove a version, also directories that its source made read-only."""
    with contextlib.suppress(OSError):
        for folder, names, _ in os.walk(directory):
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink():
                    path.chmod(0o700)  # before the walk enters it
    shutil.rmtree(directory, ignore_errors=True)


def _check_kinds(folder: Path, found: list[Path]) -> None:
    """Raise ``BadRequest`` for what is no file, or another name of a file elsewhere."""
    names: dict[tuple[int, int], int] = {}
    statuses = [(path, path.lstat()) for path in found]
    for _, status in statuses:
        key = (status.st_dev, status.st_ino)
        names[key] = names.get(key, 0) + 1
    for path, status in statuses:
        shown = path.relative_to(folder)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
            raise BadRequest(f"{shown} is neither a file nor a directory")
        if status.st_nlink > names[status.st_dev, status.st_ino]:
            raise BadRequest(f"{shown} is a hard link to a file out of the model's directory")


def _give_to_owner(root: Path, version: Path) -> None:
    """Give a model to the owner of the registry's folder: root may pull for a server of its own."""
    if os.geteuid() != 0:
        return
    owner = root.parent.stat()
    within = (Path(folder, name) for folder, _, names in os.walk(version) for name in (*names, ""))
    for path in (root, *version.parents[:2], *within):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


@contextlib.contextmanager
def _unlocked(lock: Path) -> Iterator[None]:
    """Take a lock, if it is there. Raises ``BlockingIOError`` while another process has it."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
