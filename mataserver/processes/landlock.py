"""What a process may do with files, and whom it may signal: rules that it cannot take back.

Linux: landlock(7). The rules are for the calling thread, those that it starts and their processes.
A kernel knows only some of the rights, by its ABI; the others are left as they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every architecture
_VERSION, _BENEATH = 1, 1

WRITE_FILE, READ_FILE = 1 << 1, 1 << 2
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_MAKE_AND_REMOVE = sum(1 << bit for bit in range(4, 13))
_OF_FILES = WRITE_FILE | READ_FILE | _TRUNCATE
CHANGE = WRITE_FILE | _MAKE_AND_REMOVE | _REFER | _TRUNCATE
"""Everything that changes files and directories."""
_SCOPES = 0b11
"""Abstract sockets and signals: those of processes outside are out of reach."""
_SCOPES_SINCE = 6
_DEVICES = "/dev"
_ITSELF = "/proc/self"
"""A thread's name is set by a file there."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a process reads and changes: everything but ``hidden``, and ``reads``; ``changes``.

    Paths are absolute; those of ``changes`` are directories, made if they are not there. It stands
    here and not with who chooses the paths: a worker that was just forked imports nothing more.
    """

    hidden: tuple[str, ...]
    reads: tuple[str, ...]
    changes: tuple[str, ...]

    def begin(self) -> None:
        """Put this process under the rules, if the kernel can. It is to have one thread."""
        with contextlib.suppress(OSError):  # a data_dir that is read-only or full
            for path in self.changes:
                Path(path).mkdir(parents=True, exist_ok=True)
        away = tuple(os.path.realpath(path) for path in self.hidden)
        packages = [path for path in sys.path if beneath(path, away)]
        reads = [*all_but(away), *packages]
        for path in self.reads:
            reads += all_but(away, path)
        restrict(reads, (*self.changes, tempfile.gettempdir(), _DEVICES, _ITSELF))


def abi() -> int:
    """Return the version that the kernel knows; 0 where it has none, or has it switched off."""
    return max(0, _call(_CREATE, None, 0, _VERSION))


def restrict(reads: Iterable[str], changes: Iterable[str]) -> bool:
    """Let this thread read and change files beneath those paths alone; whether the kernel does.

    Directories can be listed and programs run everywhere. A path that is not there is passed over.
    """
    version = abi()
    if not version:
        return False
    known = READ_FILE | CHANGE
    known &= ~(_REFER if version < 2 else 0) & ~(_TRUNCATE if version < 3 else 0)
    attributes = struct.pack("=QQQ", known, 0, _SCOPES if version >= _SCOPES_SINCE else 0)
    size = 24 if version >= _SCOPES_SINCE else 8
    rules = _call(_CREATE, attributes, size, 0)
    if rules < 0:
        return False
    try:
        for path in reads:
            _allow(rules, path, READ_FILE)
        for path in changes:
            _allow(rules, path, known)
        return _call(_RESTRICT, rules, 0) == 0
    finally:
        os.close(rules)


def change_nothing() -> bool:
    """Let this thread read every file, and change devices alone; whether the kernel does."""
    return restrict(("/",), (_DEVICES,))


def all_but(hidden: Iterable[str], root: str = "/") -> Iterator[str]:
    """Yield what is there in ``root`` beside ``hidden`` paths: as few directories as that takes.

    What is made later beside a hidden path is not among it. Links are left out: they would open
    what they lead to.
    """
    root = os.path.realpath(root)
    away = {real for path in hidden if (real := os.path.realpath(path)) != root}
    away = {path for path in away if beneath(path, (root,))}
    above = {parent for path in away for parent in _parents(path) if beneath(parent, (root,))}
    if not above:
        yield root
        return
    for directory in sorted(above - away):
        with contextlib.suppress(OSError):
            for entry in os.scandir(directory):
                if not entry.is_symlink() and entry.path not in above | away:
                    yield entry.path


def beneath(path: str, places: Iterable[str]) -> bool:
    """Whether a path leads to one of some places, which are real paths, or to what is in one."""
    real = os.path.realpath(path)
    return not {real, *_parents(real)}.isdisjoint(places)


def _parents(path: str) -> Iterator[str]:
    while path != "/":
        path = os.path.dirname(path)  # noqa: PTH120 - text in, text out
        yield path


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= _OF_FILES
        _call(_ADD, rules, _BENEATH, struct.pack("=Qi", rights, beneath), 0)
    finally:
        os.close(beneath)


def _call(number: int, *arguments: int | bytes | None) -> int:
    given = [
        each if each is None or isinstance(each, bytes) else ctypes.c_long(each)
        for each in arguments
    ]
    return int(ctypes.CDLL(None).syscall(ctypes.c_long(number), *given))
