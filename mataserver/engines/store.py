"""The files of models on a node: at the server's path, from the hub, or sent by the server.

What is there is told by a SHA-256 of names and contents, and used when it is the server's. The hub
is asked by one process of a node at a time, and so is what was sent written: whoever waited for it
finds it there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from mataserver.sources.cache import repository_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

MOST_SENT = 2_000_000_000
"""Bytes of a model that is sent to a node; a larger one is to be there, or on a shared disk."""
PIECE = 1 << 20
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}

log = logging.getLogger("mataserver.seat")


class Goods(Struct, frozen=True):
    """The files of a model or a part, as the server has them.

    ``digest`` is that of ``digest()``. ``repository`` and ``commit`` tell where the hub has them
    and ``names`` which of its files they are; empty where it has not.
    """

    path: str
    digest: str
    names: list[str] = []
    repository: str = ""
    commit: str = ""


class SentFile(Struct, frozen=True):
    """A file that comes next: its name from the model's own on, its bytes, their SHA-256."""

    name: str
    size: int
    sha256: str


class Consignment(Struct, frozen=True):
    """What the server sends: the first line of it, JSON, before the bytes of all files."""

    digest: str
    name: str
    files: list[SentFile]


class Receipt(Struct, frozen=True):
    """What the node answers, a line of JSON: ``send``, then ``path`` or why there is none."""

    send: bool = False
    path: str = ""
    error: str = ""


def digest(path: str, names: Iterable[str] | None = None) -> str:
    """Return a SHA-256 of the names and contents of a file or a folder; empty without one.

    With ``names`` of those files of a folder alone, empty when one is missing. Blocking, for as
    long as it takes to read them.
    """
    root = Path(path)
    if not root.exists():
        return ""
    whole = hashlib.sha256()
    files = contents(root) if names is None else sorted(root / name for name in names)
    for file in files:
        if not file.is_file():
            return ""
        whole.update(f"{file.relative_to(root)}\0{sha256(file)}\n".encode())
    return whole.hexdigest()


def contents(root: Path) -> list[Path]:
    """Return the files of a model, sorted."""
    return [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's contents."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


class Store:
    """Where a node keeps what was sent; ``shared`` unless nothing lies at the server's paths."""

    def __init__(self, folder: Path | None = None, *, shared: bool = True) -> None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._folder = folder or home / "mataserver" / "models"
        self._shared = shared

    def find(self, goods: Goods) -> str:
        """Return where the files are on this node; empty when they are nowhere. Blocking."""
        kept = str(self._kept(goods.digest, Path(goods.path).name))
        for path in [goods.path] * self._shared + [kept]:
            if digest(path) == goods.digest:
                return path
        return self._from_hub(goods) if goods.repository else ""

    def receive(self, reader: BinaryIO) -> Iterator[Receipt]:
        """Take what the server sends; yield what it is to be answered."""
        try:
            sent = msgspec.json.decode(reader.readline(), type=Consignment)
            _check(sent)
            with self._turn(sent.digest):
                kept = self._kept(sent.digest, sent.name)
                if digest(str(kept)) != sent.digest:
                    yield Receipt(send=True)
                    self._write(sent, reader)
                yield Receipt(path=str(kept))
        except (OSError, ValueError) as error:
            log.warning("a model was not taken: %s", error)
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            yield Receipt(error=why)

    def _kept(self, name: str, inner: str) -> Path:
        return self._folder / name / inner

    @contextlib.contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """Wait until no other process of this node fetches the same."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, sent: Consignment, reader: BinaryIO) -> None:
        """Write the files beside, and put them in their place once all are sound."""
        with tempfile.TemporaryDirectory(prefix=".", dir=self._folder) as beside:
            inner = Path(beside) / "whole"
            for file in sent.files:
                target = inner / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                _take(file, target, reader)
            if digest(str(inner / sent.name)) != sent.digest:
                raise ValueError("what came is not what was announced")
            place = self._folder / sent.digest
            shutil.rmtree(place, ignore_errors=True)  # what is there is damaged
            inner.rename(place)

    def _from_hub(self, goods: Goods) -> str:
        """Have the hub's cache of this node hold the files; empty when that cannot be."""
        snapshot = repository_directory(goods.repository) / "snapshots" / goods.commit
        with self._turn(f"{goods.repository.replace('/', '--')}--{goods.commit}"):
            if digest(str(snapshot), goods.names) == goods.digest:
                return str(snapshot)
            if not _downloaded(goods):
                return ""
            return str(snapshot) if digest(str(snapshot), goods.names) == goods.digest else ""


def _downloaded(goods: Goods) -> bool:
    """Have the files at their commit downloaded; whether that went well.

    By a process of its own: the hub's library reads the variables of the node once, and those of
    the worker, which may forbid it the hub, are to count in this one.
    """
    ran = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-P", "-m", __name__],
        input=msgspec.json.encode(goods),
        env={**_QUIET, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if ran.returncode:
        said = ran.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        log.warning("%s does not come from the hub: %s", goods.repository, said)
    return not ran.returncode


def main() -> None:
    """Download what standard input names. Raises what the hub's library does."""
    goods = msgspec.json.decode(sys.stdin.buffer.read(), type=Goods)
    import huggingface_hub

    for name in goods.names:
        huggingface_hub.hf_hub_download(goods.repository, name, revision=goods.commit)


def _check(sent: Consignment) -> None:
    """Raise ``ValueError`` for a model that is too large, or a file that would leave its folder."""
    if sum(file.size for file in sent.files) > MOST_SENT:
        raise ValueError("it is too large")
    every = [sent.digest, sent.name, *(file.name for file in sent.files)]
    for name in every:
        if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError("a name leads elsewhere")


def _take(file: SentFile, target: Path, reader: BinaryIO) -> None:
    """Write the next bytes to a file, on the disk. Raises ``ValueError`` when they are others."""
    left, whole = file.size, hashlib.sha256()
    with target.open("wb") as out:
        while left:
            piece = reader.read(min(PIECE, left))
            if not piece:
                raise ValueError("the server went away")
            whole.update(piece)
            out.write(piece)
            left -= len(piece)
        out.flush()
        os.fsync(out.fileno())
    if whole.hexdigest() != file.sha256:
        raise ValueError("a file came damaged")


if __name__ == "__main__":
    main()
