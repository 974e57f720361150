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
_QUERY_VERSION, _PATH_BENEATH = 1, 1

WRITE_FILE, READ_FILE = 1 << 1, 1 << 2
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_MAKE_AND_REMOVE_RIGHTS = sum(1 << bit for bit in range(4, 13))
_FILE_RIGHTS = WRITE_FILE | READ_FILE | _TRUNCATE
WRITE_RIGHTS = WRITE_FILE | _MAKE_AND_REMOVE_RIGHTS | _REFER | _TRUNCATE
"""Everything that changes files and directories."""
_SCOPES = 0b11
"""Abstract sockets and signals: deny access to processes outside."""
_SCOPES_SINCE = 6
_DEVICES = "/dev"
_PROC_SELF = "/proc/self"
"""Needed to set a thread's name."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """File rules: read everything but ``hidden``, plus ``readable``; write only below ``writable``.

    Paths are absolute; ``writable`` are directories, created if missing. Defined here, apart from
    the code that chooses the paths, because a forked worker must not import more modules.
    """

    hidden: tuple[str, ...]
    readable: tuple[str, ...]
    writable: tuple[str, ...]

    def apply(self) -> None:
        """Apply the rules to this process, if the kernel can. It must have one thread."""
        with contextlib.suppress(OSError):  # a read-only or full data_dir
            for path in self.writable:
                Path(path).mkdir(parents=True, exist_ok=True)
        hidden_paths = tuple(os.path.realpath(path) for path in self.hidden)
        packages = [path for path in sys.path if is_beneath(path, hidden_paths)]
        readable = [*paths_except(hidden_paths), *packages]
        for path in self.readable:
            readable += paths_except(hidden_paths, path)
        restrict(readable, (*self.writable, tempfile.gettempdir(), _DEVICES, _PROC_SELF))


def abi_version() -> int:
    """Return the kernel's Landlock ABI version; 0 if unsupported or disabled."""
    return max(0, _call(_CREATE, None, 0, _QUERY_VERSION))


def restrict(readable: Iterable[str], writable: Iterable[str]) -> bool:
    """Restrict this thread's file access to those paths; return whether the kernel enforces it.

    Listing directories and executing programs stay allowed everywhere. Missing paths are ignored.
    """
    version = abi_version()
    if not version:
        return False
    known = READ_FILE | WRITE_RIGHTS
    known &= ~(_REFER if version < 2 else 0) & ~(_TRUNCATE if version < 3 else 0)
    attributes = struct.pack("=QQQ", known, 0, _SCOPES if version >= _SCOPES_SINCE else 0)
    size = 24 if version >= _SCOPES_SINCE else 8
    rules = _call(_CREATE, attributes, size, 0)
    if rules < 0:
        return False
    try:
        for path in readable:
            _allow(rules, path, READ_FILE)
        for path in writable:
            _allow(rules, path, known)
        return _call(_RESTRICT, rules, 0) == 0
    finally:
        os.close(rules)


def make_read_only() -> bool:
    """Make the file system read-only for this thread, except devices; return whether enforced."""
    return restrict(("/",), (_DEVICES,))


def paths_except(hidden: Iterable[str], root: str = "/") -> Iterator[str]:
    """Yield the contents of ``root`` without ``hidden`` paths, as few directories as possible.

    Entries created later next to a hidden path are not included. Symbolic links are skipped, as
    they would expose their targets.
    """
    root = os.path.realpath(root)
    hidden_paths = {real for path in hidden if (real := os.path.realpath(path)) != root}
    hidden_paths = {path for path in hidden_paths if is_beneath(path, (root,))}
    above = {
        parent for path in hidden_paths for parent in _parents(path) if is_beneath(parent, (root,))
    }
    if not above:
        yield root
        return
    for directory in sorted(above - hidden_paths):
        with contextlib.suppress(OSError):
            for entry in os.scandir(directory):
                if not entry.is_symlink() and entry.path not in above | hidden_paths:
                    yield entry.path


def is_beneath(path: str, places: Iterable[str]) -> bool:
    """Whether a path resolves to one of ``places``, which are real paths, or into one."""
    real = os.path.realpath(path)
    return not {real, *_parents(real)}.isdisjoint(places)


def _parents(path: str) -> Iterator[str]:
    while path != "/":
        path = os.path.dirname(path)  # noqa: PTH120 - text in, text out
        yield path


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        directory = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(directory).st_mode):
            rights &= _FILE_RIGHTS
        _call(_ADD, rules, _PATH_BENEATH, struct.pack("=Qi", rights, directory), 0)
    finally:
        os.close(directory)


def _call(number: int, *arguments: int | bytes | None) -> int:
    given = [
        each if each is None or isinstance(each, bytes) else ctypes.c_long(each)
        for each in arguments
    ]
    return int(ctypes.CDLL(None).syscall(ctypes.c_long(number), *given))
