"""Model repositories that a Triton and this server both see: files are laid there, and not sent.

A Triton in explicit mode reads its repository when it is told to load. So files are put in their
place one by one, and the configuration, which names the versions, last: what a crash leaves is no
version that is loaded. Written files are recorded beside it, and not copied again.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO
from weakref import WeakValueDictionary

import msgspec

from mataserver import InvalidParams
from mataserver_database import finish
from mataserver_fleet import schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NOTE = ".mataserver.json"
"""In a model's folder: the sha256 of each file that was laid there, empty while it is copied."""
COPY_BYTES = 1 << 20


class SharedPaths:
    """The repositories below some folders, which the settings name."""

    def __init__(self, folders: Iterable[str]) -> None:
        self._folders = [Path(each) for each in folders]
        self._known: dict[str, SharedPath] = {}

    def check(self, path: str) -> Path:
        """Return the folder of a path, links followed. Raises ``InvalidParams`` for others."""
        if not PurePath(path).is_absolute() or "\0" in path:
            raise InvalidParams("path: it must begin at the root")
        real = Path(path).resolve()
        if not any(real.is_relative_to(each.resolve()) for each in self._folders):
            raise InvalidParams("path: not below a folder of plugins.fleet.shared_folders")
        return real

    def get(self, path: str | None) -> SharedPath | None:
        """Return a repository, the same one for each Triton that shares it; None without a path."""
        if path is None:
            return None
        return self._known.setdefault(path, SharedPath(self, path))


class SharedPath:
    """One repository.

    Several Tritons may share it, each with versions of its own: a model is locked from writing
    until a Triton has loaded it.
    """

    def __init__(self, paths: SharedPaths, path: str) -> None:
        self._paths = paths
        self._path = path
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, model: str) -> asyncio.Lock:
        """Return what is held from laying a model until it is loaded."""
        lock = self._locks.get(model)
        if lock is None:
            lock = self._locks[model] = asyncio.Lock()
        return lock

    async def write(self, model: str, config: Mapping[str, Any], files: Mapping[str, Path]) -> None:
        """Have a model's folder hold these files and this configuration; other files stay.

        Raises ``OSError``; of its children ``FileNotFoundError`` is of a file to be laid alone.
        """
        from mataserver_fleet import pbtxt  # brings protobuf, which only pushes need

        await finish(asyncio.to_thread(self._write_files, model, pbtxt.write(dict(config)), files))

    def _write_files(self, model: str, config: bytes, files: Mapping[str, Path]) -> None:
        folder = self._folder(model)
        written = _read_note(folder)
        changed = {
            path: file
            for path, file in files.items()
            if written.get(path) != file.name or not _is_unchanged(folder / path, file)
        }
        _write_note(folder, {**written, **dict.fromkeys(changed, "")})
        for path, file in changed.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.parent.resolve().is_relative_to(folder):
                raise OSError(errno.ELOOP, "A link leads out of the model's folder")
            new = _temporary_path(target)
            with file.open("rb") as source, _open_new(new) as copy:
                shutil.copyfileobj(source, copy, COPY_BYTES)
            new.replace(target)
        _write_note(folder, {**written, **{path: file.name for path, file in files.items()}})
        _write(folder / schema.NAME, config)

    def _folder(self, model: str) -> Path:
        """Return a model's folder, made where there is none. Raises ``OSError``."""
        try:
            root = self._paths.check(self._path)
        except InvalidParams as error:
            raise PermissionError(errno.EACCES, error.detail) from None
        if not root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        folder = root / model
        folder.mkdir(exist_ok=True)
        if folder.is_symlink():
            raise OSError(errno.ELOOP, "The model's folder is a link")
        return folder


def _is_unchanged(target: Path, file: Path) -> bool:
    """Whether something that was laid is still there: a file of that size."""
    try:
        return not target.is_symlink() and target.stat().st_size == file.stat().st_size
    except FileNotFoundError:
        return False


def _read_note(folder: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode((folder / NOTE).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _write_note(folder: Path, written: Mapping[str, str]) -> None:
    _write(folder / NOTE, msgspec.json.encode(written))


def _write(target: Path, data: bytes) -> None:
    new = _temporary_path(target)
    with _open_new(new) as file:
        file.write(data)
    new.replace(target)


def _open_new(path: Path) -> BinaryIO:
    """Open a new file in the place of what a crash has left there: a link is never written to."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def _temporary_path(target: Path) -> Path:
    """Return where a file is written before it takes its place."""
    return target.with_name(f".{target.name}.new")
