"""``mataserver fleet models push DIR``: a folder of Triton's repository becomes a model."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import MataError
from mataserver_fleet import schema
from mataserver_fleet.fleet_client import quote_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mataserver_fleet.fleet_client import FleetClient


PIECE = 8_000_000
"""Bytes that are sent at a time; a form of them is in memory some four times."""
_UNKNOWN_OFFSET = 10**15 - 1
"""An offset where no piece begins: the server's refusal names the expected offset."""
_EXPECTED = re.compile(r"offset: (\d+) is expected")


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
        raise MataError(f"{root} has no version: expected a folder named 1 with the model's file")
    return Folder(root, tuple(common), {n: tuple(files) for n, files in versions.items()})


def push(ask: FleetClient, name: str, folder: Folder, piece: int = PIECE) -> list[str]:
    """Send what the server does not have yet; return a line for each version.

    ``piece`` is how many bytes are sent at a time at most.

    Raises ``MataError`` for a version that it has with other files. A model that was made for this
    and has no version then is removed.
    """
    known = ask.find(f"/api/models/{quote_name(name)}")
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
            _send(ask, name, folder, number, piece)
            lines.append(f"added version {number} to {name}")
    except MataError:
        if known is None and not lines:
            ask("DELETE", f"/api/models/{quote_name(name)}")
        raise
    return lines


def _send(ask: FleetClient, name: str, folder: Folder, number: int, piece: int) -> None:
    """Send a version: what is small in one form, large files before it, in pieces.

    Large ones that the server has of an earlier push or version are not sent again, and one that
    broke off is resumed.
    """
    path, fields = f"/api/models/{quote_name(name)}/versions", {"version": str(number)}
    small, large = _split_by_size(folder, number, piece)
    if folder.config is not None:
        small[schema.NAME] = folder.config
    digests = {each: _digest(folder.root / each) for each in large}
    fields_sent = {**fields, "digests": msgspec.json.encode(digests).decode()}
    for _ in (*large, ""):
        try:
            ask.send(path, fields_sent, small)
        except MataError as error:
            lacking = [each for each in large if error.detail.startswith(f"{each}: no file")]
            if error.status != 409 or not lacking:
                raise
            first = lacking[0]
            file = folder.root / first
            _PieceSender(ask, path, fields, first, file, digests[first], piece).send()
        else:
            return
    raise MataError(f"{name}: version {number} was not added: the server keeps none of its files")


def _split_by_size(folder: Folder, number: int, budget: int) -> tuple[dict[str, bytes], list[str]]:
    """Return the files of a version that go in one form, and the names of those that are large."""
    small: dict[str, bytes] = {}
    large: list[str] = []
    for each in (*folder.common, *folder.versions[number]):
        size = (folder.root / each).stat().st_size
        if each == schema.NAME or size <= budget:
            small[each] = (folder.root / each).read_bytes()
            budget = max(0, budget - size)
        else:
            large.append(each)
    return small, large


@dataclass(frozen=True)
class _PieceSender:
    """A large file on its way, to be kept by its digest for the version that names it."""

    ask: FleetClient
    path: str
    fields: Mapping[str, str]
    name: str
    file: Path
    digest: str
    length: int

    def send(self) -> None:
        """Send it from where an earlier push broke off. Raises ``MataError``."""
        start = self._received_bytes()
        try:
            self._send(start)
        except MataError as error:
            if not start or error.status != 400:
                raise
            self._send(0)  # what was begun was another file

    def _send(self, start: int) -> None:
        size = self.file.stat().st_size
        with self.file.open("rb") as opened:
            offset = opened.seek(start if start < size else 0)
            while offset < size:
                piece = opened.read(self.length)
                fields_sent = {**self.fields, "offset": str(offset), "more": "true"}
                offset += len(piece)
                last = {"check": self.digest} if offset >= size else {}
                self.ask.send(self.path, {**fields_sent, **last}, {self.name: piece})

    def _received_bytes(self) -> int:
        """Return how many bytes the server has of a push that broke off."""
        try:
            self.ask.send(
                self.path, {**self.fields, "offset": str(_UNKNOWN_OFFSET)}, {self.name: b""}
            )
        except MataError as error:
            expected = _EXPECTED.match(error.detail)
            if expected is None:
                raise
            return int(expected[1])
        return 0


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
