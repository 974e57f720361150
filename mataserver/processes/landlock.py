"""File access and signal restrictions of a process, which it cannot lift.

Linux: landlock(7). Rules apply to the calling thread, its future threads and their processes. A
kernel supports only the rights of its ABI version; others stay unrestricted.
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
"""Abstract sockets and signals: deny access to processes outside."""
_SCOPES_SINCE = 6
_DEVICES = "/dev"
_ITSELF = "/proc/self"
"""Needed to set a thread's name."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """File rules: read everything but ``hidden``, plus ``reads``; write only below ``changes``.

    Paths are absolute; ``changes`` are directories, created if missing. Defined here, apart from
    the code that chooses the paths, because a forked worker must not import more modules.
    """

    hidden: tuple[str, ...]
    reads: tuple[str, ...]
    changes: tuple[str, ...]

    def begin(self) -> None:
        """Apply the rules to this process, if the kernel can. It must have one thread."""
        with contextlib.suppress(OSError):  # a read-only or full data_dir
            for path in self.changes:
                Path(path).mkdir(parents=True, exist_ok=True)
        away = tuple(os.path.realpath(path) for path in self.hidden)
        packages = [path for path in sys.path if beneath(path, away)]
        reads = [*all_but(away), *packages]
        for path in self.reads:
            reads += all_but(away, path)
        restrict(reads, (*self.changes, tempfile.gettempdir(), _DEVICES, _ITSELF))


def abi() -> int:
    """Return the kernel's Landlock ABI version; 0 if unsupported or disabled."""
    return max(0, _call(_CREATE, None, 0, _VERSION))


def restrict(reads: Iterable[str], changes: Iterable[str]) -> bool:
    """Restrict this thread's file access to those paths; return whether the kernel enforces it.

    Listing directories and executing programs stay allowed everywhere. Missing paths are ignored.
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
    """Make the file system read-only for this thread, except devices; return whether enforced."""
    return restrict(("/",), (_DEVICES,))


def all_but(hidden: Iterable[str], root: str = "/") -> Iterator[str]:
    """Yield the contents of ``root`` without ``hidden`` paths, as few directories as possible.

    Entries created later beside a hidden path are not included. Symbolic links are skipped, as they
    would expose their targets.
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
    """Whether a path resolves to one of ``places``, which are real paths, or into one."""
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
