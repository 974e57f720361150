"""The files of models on a node: at the server's path, from the hub, or sent by the server.

Files are identified by a SHA-256 of names and contents, and used if it equals the server's. Only
one process of a node at a time downloads or stores the same files; the others wait and then find
them.
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
"""Maximum bytes of a model that is sent; a larger one must be on the node, or a shared disk."""
PIECE = 1 << 20
_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}

log = logging.getLogger("mataserver.seat")


class Goods(Struct, frozen=True):
    """Manifest of the files of a model or a part, as the server has them.

    ``digest`` is that of ``digest()``. ``repository``, ``commit`` and ``names`` locate the files on
    the hub; empty for files that are not from it.
    """

    path: str
    digest: str
    names: list[str] = []
    repository: str = ""
    commit: str = ""


class SentFile(Struct, frozen=True):
    """A file in the stream: its name relative to the model's parent, its size, its SHA-256."""

    name: str
    size: int
    sha256: str


class Consignment(Struct, frozen=True):
    """Header of sent files: the first line, JSON, before the bytes of all files."""

    digest: str
    name: str
    files: list[SentFile]


class Receipt(Struct, frozen=True):
    """The node's reply, a line of JSON: first ``send``, finally ``path`` or ``error``."""

    send: bool = False
    path: str = ""
    error: str = ""


def digest(path: str, names: Iterable[str] | None = None) -> str:
    """Return a SHA-256 of the names and contents of a file or a directory; empty if missing.

    With ``names``, of those files of a directory only; empty if one is missing. Blocking: reads
    every byte.
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
    """A node's store of sent files; ``shared`` also looks at the server's own paths."""

    def __init__(self, folder: Path | None = None, *, shared: bool = True) -> None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._folder = folder or home / "mataserver" / "models"
        self._shared = shared

    def find(self, goods: Goods) -> str:
        """Return the files' path on this node, empty if there is none. Blocking."""
        kept = str(self._kept(goods.digest, Path(goods.path).name))
        for path in [goods.path] * self._shared + [kept]:
            if digest(path) == goods.digest:
                return path
        return self._from_hub(goods) if goods.repository else ""

    def receive(self, reader: BinaryIO) -> Iterator[Receipt]:
        """Receive files from the server; yield the replies to it."""
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
        """Hold the lock under which one process of this node at a time fetches the same files."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, sent: Consignment, reader: BinaryIO) -> None:
        """Write the files to a temporary directory, and move it into place once verified."""
        with tempfile.TemporaryDirectory(prefix=".", dir=self._folder) as beside:
            inner = Path(beside) / "whole"
            for file in sent.files:
                target = inner / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                _take(file, target, reader)
            if digest(str(inner / sent.name)) != sent.digest:
                raise ValueError("what came is not what was announced")
            place = self._folder / sent.digest
            shutil.rmtree(place, ignore_errors=True)  # an existing directory is damaged
            inner.rename(place)

    def _from_hub(self, goods: Goods) -> str:
        """Download the files to this node's hub cache; return their path, empty on failure."""
        snapshot = repository_directory(goods.repository) / "snapshots" / goods.commit
        with self._turn(f"{goods.repository.replace('/', '--')}--{goods.commit}"):
            if digest(str(snapshot), goods.names) == goods.digest:
                return str(snapshot)
            if not _downloaded(goods):
                return ""
            return str(snapshot) if digest(str(snapshot), goods.names) == goods.digest else ""


def _downloaded(goods: Goods) -> bool:
    """Download the files at their commit; return whether that succeeded.

    Uses a process of its own: the hub's library reads environment variables once, at import. The
    worker's variables, which may disable the hub, must not apply to this download.
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
    """Download the files that standard input names. Raises what the hub's library raises."""
    goods = msgspec.json.decode(sys.stdin.buffer.read(), type=Goods)
    import huggingface_hub

    for name in goods.names:
        huggingface_hub.hf_hub_download(goods.repository, name, revision=goods.commit)


def _check(sent: Consignment) -> None:
    """Raise ``ValueError`` for a model that is too large, or a path outside its directory."""
    if sum(file.size for file in sent.files) > MOST_SENT:
        raise ValueError("it is too large")
    every = [sent.digest, sent.name, *(file.name for file in sent.files)]
    for name in every:
        if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError("a name leads elsewhere")


def _take(file: SentFile, target: Path, reader: BinaryIO) -> None:
    """Write the next bytes to a file and sync it. Raises ``ValueError`` if its hash differs."""
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
