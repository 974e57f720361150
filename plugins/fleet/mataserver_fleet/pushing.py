"""``mataserver fleet models push DIR``: a folder of Triton's repository becomes a model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mataserver import MataError
from mataserver_fleet import schema
from mataserver_fleet.asking import part

if TYPE_CHECKING:
    from pathlib import Path

    from mataserver_fleet.asking import Asking


PIECE = 16_000_000
"""Bytes of a file that are sent at a time."""


@dataclass(frozen=True)
class Folder:
    """A model's folder: files of all versions, and those of each version, by their paths in it.

    ``config`` is a configuration for one that has none.
    """

    root: Path
    common: tuple[str, ...]
    versions: dict[int, tuple[str, ...]]
    config: bytes | None = None


def folder_of(root: Path) -> Folder:
    """Read a folder. Raises ``MataError`` for one that has no version."""
    common: list[str] = []
    versions: dict[int, list[str]] = {}
    for path in sorted(each for each in root.rglob("*") if each.is_file()):
        name = path.relative_to(root).as_posix()
        head, _, rest = name.partition("/")
        if rest and head.isascii() and head.isdigit():
            versions.setdefault(int(head), []).append(name)
        else:
            common.append(name)
    if not versions:
        raise MataError(f"{root} has no version: a folder 1 with the model's file is wanted")
    return Folder(root, tuple(common), {n: tuple(files) for n, files in versions.items()})


def push(ask: Asking, name: str, folder: Folder) -> list[str]:
    """Send what the server does not have yet; return a line for each version.

    Raises ``MataError`` for a version that it has with other files. A model that was made for this
    and has no version then is removed.
    """
    known = ask.find(f"/api/models/{part(name)}")
    there = {int(each["version"]): each for each in (known or {}).get("versions", ())}
    for number in there.keys() & folder.versions.keys():
        _check_same(folder, name, number, there[number])
    if known is None:
        ask.send("/api/models", {"name": name}, {})
    lines: list[str] = []
    try:
        for number in sorted(folder.versions):
            if number in there:
                lines.append(f"{name} has version {number} already")
                continue
            _send(ask, name, folder, number)
            lines.append(f"added version {number} to {name}")
    except MataError:
        if known is None and not lines:
            ask("DELETE", f"/api/models/{part(name)}")
        raise
    return lines


def _send(ask: Asking, name: str, folder: Folder, number: int) -> None:
    """Send a version: whole where it is small, or in pieces where it is one large file."""
    path, files = f"/api/models/{part(name)}/versions", folder.versions[number]
    fields = {"version": str(number)}
    common = {each: (folder.root / each).read_bytes() for each in folder.common}
    common |= {} if folder.config is None else {schema.NAME: folder.config}
    large = (folder.root / files[0]).stat().st_size > PIECE
    if len(files) > 1 or set(common) - {schema.NAME} or not large:
        whole = {each: (folder.root / each).read_bytes() for each in files}
        ask.send(path, fields, {**common, **whole})
        return
    (name,), sha256, offset = files, hashlib.sha256(), 0
    size = (folder.root / name).stat().st_size
    with (folder.root / name).open("rb") as file:
        while piece := file.read(PIECE):
            sha256.update(piece)
            told = {**fields, "offset": str(offset)}
            offset += len(piece)
            last = offset == size
            told |= {"check": sha256.hexdigest()} if last else {}
            ask.send(path, told, {**(common if last else {}), name: piece})


def _check_same(folder: Folder, model: str, number: int, known: dict[str, Any]) -> None:
    theirs = {each["path"]: each["digest"] for each in known["files"]}
    mine = {
        name: _digest(folder.root / name)
        for name in (*folder.common, *folder.versions[number])
        if name != schema.NAME
    }
    if mine != theirs:
        raise MataError(
            f"version {number} of {model} has other files here, and a version never changes: "
            "give them a folder with another number"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
