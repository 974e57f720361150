"""Wheels to be installed: the files they write, and the installed files these would replace.

A wheel's files are known beforehand (the binary distribution format of PyPA), so overwriting or
hiding a module is rejected before anything changes, and changes can be rolled back.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import shutil
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from mataserver.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Files that Python imports, or reads at its start.
_CODE = frozenset({".py", ".pyc", ".so", ".pth"})
_CHUNK_BYTES = 1024 * 1024


class PipEnvironment(msgspec.Struct, frozen=True):
    """Where a Python's pip writes, and what is installed there.

    paths:     the folder of each installation scheme key ("purelib", "scripts" ...).
    installed: the distributions' names and versions, in order of discovery.
    has_pip:   whether there is a pip.
    user:      whether pip must write to the user's own folders.
    """

    paths: dict[str, str]
    installed: list[tuple[str | None, str | None]]
    has_pip: bool
    user: bool

    def folder(self, key: str) -> Path:
        """Return a scheme key's folder with links resolved: files are compared by path."""
        return Path(self.paths[key]).resolve()


class InstalledModule(msgspec.Struct, frozen=True):
    """An installed module: its first file, if any, its folders, and its distributions."""

    origin: str | None
    folders: list[str]
    owners: list[str]


class Wheel:
    """One wheel: ``name``, ``version``, and ``files``: each target path and its member, if any.

    Raises ``BadRequest`` for an invalid wheel.
    """

    def __init__(self, path: Path, home: PipEnvironment) -> None:
        self.path = path
        self.name, self.version = path.name.split("-")[:2]
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
                self._info = next(name for name in names if name.endswith(".dist-info/WHEEL"))
                pure = b"root-is-purelib: true" in archive.read(self._info).lower()
                self._root = home.folder("purelib" if pure else "platlib")
                self.files: dict[Path, str | None] = {
                    self._target(name, home): name for name in names
                }
                scripts = home.folder("scripts")
                self.files |= dict.fromkeys(scripts / name for name in self._commands(archive))
        except (zipfile.BadZipFile, StopIteration, TypeError, ValueError) as error:
            raise BadRequest(f"the package {self.name} cannot be read") from error

    @property
    def modules(self) -> dict[str, list[Path]]:
        """The top-level modules that it provides, with their candidate first files."""
        found: dict[str, list[Path]] = {}
        for target in self.files:
            if not target.is_relative_to(self._root) or target.suffix not in _CODE:
                continue
            first, *rest = target.relative_to(self._root).parts
            name = first.partition(".")[0]
            if name.isidentifier() and target.suffix != ".pth":
                firsts = found.setdefault(name, [])
                if not rest or (len(rest) == 1 and rest[0].partition(".")[0] == "__init__"):
                    firsts.append(target)
        return found

    def is_identical(self, target: Path) -> bool:
        """Whether the file at ``target`` already has the wheel's content."""
        member = self.files[target]
        if member is None:
            return False
        with zipfile.ZipFile(self.path) as archive:
            if archive.getinfo(member).file_size != target.stat().st_size:
                return False
            with archive.open(member) as new, target.open("rb") as old:
                while part := new.read(_CHUNK_BYTES):
                    if old.read(len(part)) != part:
                        return False
        return True

    def _target(self, name: str, home: PipEnvironment) -> Path:
        """Return a member's target: below the root, or as its ``.data`` folder says."""
        parts = PurePosixPath(name).parts
        if len(parts) > 2 and parts[0].endswith(".data") and parts[1] in home.paths:
            root = home.folder(parts[1])
            return root.joinpath(*((self.name,) if parts[1] == "headers" else ()), *parts[2:])
        return self._root.joinpath(*parts)

    def _commands(self, archive: zipfile.ZipFile) -> list[str]:
        """Return the names of the scripts that pip generates, which reads entry points so, too.

        Raises ``TypeError`` or ``ValueError`` for damaged ones.
        """
        folder = zipfile.Path(archive, self._info.removesuffix("WHEEL"))
        points = importlib.metadata.PathDistribution(folder).entry_points
        return [point.name for point in points if point.group in {"console_scripts", "gui_scripts"}]


class Installation:
    """The files that wheels write, and backups in ``folder`` of those that existed."""

    def __init__(self, wheels: Sequence[Wheel], folder: Path) -> None:
        self._wheels = wheels
        self._targets = [target for wheel in wheels for target in wheel.files]
        self._copies: dict[Path, Path] = {}
        self._created: list[Path] = []
        self._folder = folder

    def check(self, modules: Mapping[str, InstalledModule]) -> None:
        """Reject wheels that would change or hide one of the installed ``modules``.

        Raises ``BadRequest`` with the distributions' names.
        """
        for wheel in self._wheels:
            for target in filter(Path.is_file, wheel.files):
                if target.suffix in _CODE and not wheel.is_identical(target):
                    raise _conflict_error(wheel, "overwrite", *_owner(target, modules))
            for name, firsts in wheel.modules.items():
                found = modules.get(name)
                if found is not None and _is_shadowing(firsts, found):
                    raise _conflict_error(wheel, "hide", name, found.owners)

    def back_up(self) -> None:
        """Back up existing files that would be written: identical ones, or not code."""
        for number, target in enumerate(filter(Path.is_file, dict.fromkeys(self._targets))):
            self._copies[target] = self._folder / str(number)
            shutil.copy2(target, self._copies[target])
        wanted = {parent for target in self._targets for parent in _folders(target)}
        self._created = sorted(folder for folder in wanted if not folder.exists())

    def restore(self) -> None:
        """Restore the contents and times of files that existed before."""
        for target, copy in self._copies.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy2(copy, target)

    def roll_back(self) -> None:
        """Remove what was installed, completely or partly, and restore what existed before."""
        for folder in self._created:
            shutil.rmtree(folder, ignore_errors=True)
        for target in self._targets:
            if target not in self._copies:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    target.unlink()
                for compiled in target.parent.glob(f"__pycache__/{target.stem}.*.pyc"):
                    compiled.unlink()
        self.restore()


def _folders(target: Path) -> Iterable[Path]:
    """Return the folders that a file's installation may create."""
    return (*target.parents, target.parent / "__pycache__")


def _is_shadowing(firsts: Iterable[Path], found: InstalledModule) -> bool:
    """Whether one of a module's ``firsts`` would shadow the installed module.

    An identical path was already compared by content. A namespace folder is shadowed by an
    ``__init__`` in it.
    """
    if found.origin is not None:
        return any(Path(found.origin).resolve() != first for first in firsts)
    folders = {Path(folder).resolve() for folder in found.folders}
    return any(first.parent in folders for first in firsts)


def _owner(target: Path, modules: Mapping[str, InstalledModule]) -> tuple[str, list[str]]:
    """Return the installed module that a file belongs to, and its distributions."""
    for name, found in modules.items():
        places = [*found.folders, *([found.origin] if found.origin else [])]
        if any(target.is_relative_to(Path(place).resolve()) for place in places):
            return name, found.owners
    return target.name, []


def _conflict_error(wheel: Wheel, verb: str, module: str, owners: Sequence[str]) -> BadRequest:
    owner = f" of {', '.join(owners)}" if owners else ""
    return BadRequest(
        f"{wheel.name.replace('_', '-')} {wheel.version} would {verb} the module {module}{owner}; "
        "nothing was changed: install it into an environment of its own"
    )
