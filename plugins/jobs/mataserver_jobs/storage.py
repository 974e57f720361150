"""The jobs' files: a folder each, what is kept of them, and what the disk has room for."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mataserver import NotFound, OutOfMemory
from mataserver_database import boot, hold, is_left
from mataserver_jobs.record import is_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MADE_BY = ".boot"
"""The file of a job's folder that names the boot of the machine which made it."""
_NEW, _GONE = ".new.", ".gone."
"""How the names begin of folders that are not a job's yet, or not any more. One is made or removed
under such a name, and renamed in one step: a server that is killed in the middle leaves no folder
of a job that lacks a part."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file of a job's result: its name within the output, and where it is."""

    name: str
    path: Path


class Storage:
    """The folders of all jobs below ``root``. Every method is blocking; sizes are in bytes."""

    def __init__(self, root: Path, *, min_free: int) -> None:
        self._root = root.resolve()  # what leads out of it is told by its resolved path
        self._min_free = min_free

    @property
    def root(self) -> Path:
        """Where the jobs' folders are."""
        return self._root

    def folder(self, job: str) -> Path:
        """Return the folder of a job."""
        return self._root / job

    def make(self, job: str, held: contextlib.ExitStack) -> Path:
        """Make the folder of a new job; return that of what it is given.

        It is locked until ``held`` is closed or the process ends. Raises ``OutOfMemory`` (507) when
        the disk is nearly full.
        """
        self.check_room()
        made = self._root / f"{_NEW}{boot()}.{job}"
        try:
            (made / "input").mkdir(parents=True)
            (made / _MADE_BY).write_text(boot(), encoding="ascii")
            held.callback(os.close, hold(made))
            made.rename(self.folder(job))
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        return self.folder(job) / "input"

    def has_room(self) -> bool:
        """Whether the disk has as much room as another job asks for."""
        self._root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._root).free >= self._min_free

    def check_room(self) -> None:
        """Raise ``OutOfMemory`` (507) when the disk is nearly full."""
        if not self.has_room():
            raise OutOfMemory("The disk has no room for another job")

    def reset(self, job: str, made: Sequence[str]) -> None:
        """Remove the folders of what an ended job made; what it was given stays."""
        for name in made:
            shutil.rmtree(self.folder(job) / name, ignore_errors=True)

    def remove(self, job: str) -> None:
        """Remove everything of a job."""
        going = self._root / f"{_GONE}{uuid.uuid4()}"
        with contextlib.suppress(OSError):  # it was not made, or is being removed
            self.folder(job).rename(going)
        shutil.rmtree(going, ignore_errors=True)

    def files(self, job: str) -> list[OutputFile]:
        """Return the files of a job's result, by name; what is a link is none."""
        output = self.folder(job) / "output"
        return [
            OutputFile(path.relative_to(output).as_posix(), path)
            for path in sorted(output.rglob("*"))
            if path.is_file() and not path.is_symlink() and path.resolve() == path.absolute()
        ]

    def file(self, job: str, name: str) -> OutputFile:
        """Return a file of a job's result: one of ``files``. Raises ``NotFound``."""
        for each in self.files(job):
            if each.name == name:
                return each
        raise NotFound("The job has no such file")

    def log(self, job: str, size: int) -> bytes:
        """Return the last ``size`` bytes of what a job printed."""
        try:
            with (self.folder(job) / "log").open("rb") as file:
                end = file.seek(0, 2)
                file.seek(max(0, end - size))
                return file.read(size)
        except FileNotFoundError:
            return b""

    def sweep(self) -> list[str]:
        """Remove the folders of which a killed server made, or removed, a part.

        Return the others that no draft holds: those may be of removed jobs.
        """
        if not self._root.is_dir():
            return []
        found = []
        for path in self._root.iterdir():
            with contextlib.suppress(FileNotFoundError):  # it is being removed
                if is_id(path.name) and is_left(path, _made_by(path)):
                    found.append(path.name)
                elif path.name.startswith(_GONE) or _is_left_new(path):
                    shutil.rmtree(path, ignore_errors=True)
        return found


def _is_left_new(folder: Path) -> bool:
    """Whether a folder is not a job's yet, and its server was killed."""
    made_in = folder.name.removeprefix(_NEW)
    return made_in != folder.name and is_left(folder, made_in.partition(".")[0])


def _made_by(folder: Path) -> str:
    """Return the boot that a folder was made in; empty where nothing tells."""
    try:
        return (folder / _MADE_BY).read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
