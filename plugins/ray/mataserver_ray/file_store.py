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

from mataserver import repository_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

MAX_TRANSFER_BYTES = 2_000_000_000
"""Maximum bytes of a model that is sent; a larger one must be on the node, or a shared disk."""
CHUNK_BYTES = 1 << 20
_HUB_ENVIRONMENT = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}

log = logging.getLogger("mataserver.runner")


class FileManifest(Struct, frozen=True):
    """Manifest of the files of a model or a part, as the server has them.

    ``digest`` is that of ``tree_digest()``. ``repository``, ``commit`` and ``names`` locate the
    files on the hub; empty for files that are not from it.
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


class TransferHeader(Struct, frozen=True):
    """Header of sent files: the first line, JSON, before the bytes of all files."""

    digest: str
    name: str
    files: list[SentFile]


class TransferReply(Struct, frozen=True):
    """The node's reply, a line of JSON: first ``send``, finally ``path`` or ``error``."""

    send: bool = False
    path: str = ""
    error: str = ""


def tree_digest(path: str, names: Iterable[str] | None = None) -> str:
    """Return a SHA-256 of the names and contents of a file or a directory; empty if missing.

    With ``names``, of those files of a directory only; empty if one is missing. Blocking: reads
    every byte.
    """
    root = Path(path)
    if not root.exists():
        return ""
    hasher = hashlib.sha256()
    files = list_files(root) if names is None else sorted(root / name for name in names)
    for file in files:
        if not file.is_file():
            return ""
        hasher.update(f"{file.relative_to(root)}\0{hash_file(file)}\n".encode())
    return hasher.hexdigest()


def list_files(root: Path) -> list[Path]:
    """Return the files of a model, sorted."""
    return [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())


def hash_file(file: Path) -> str:
    """Return the SHA-256 of a file's contents."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


class FileStore:
    """A node's store of sent files; ``shared`` also looks at the server's own paths."""

    def __init__(self, folder: Path | None = None, *, shared: bool = True) -> None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._folder = folder or home / "mataserver" / "models"
        self._shared = shared

    def find(self, manifest: FileManifest) -> str:
        """Return the files' path on this node, empty if there is none. Blocking."""
        stored = str(self._stored_path(manifest.digest, Path(manifest.path).name))
        for path in [manifest.path] * self._shared + [stored]:
            if tree_digest(path) == manifest.digest:
                return path
        return self._from_hub(manifest) if manifest.repository else ""

    def receive(self, reader: BinaryIO) -> Iterator[TransferReply]:
        """Receive files from the server; yield the replies to it."""
        try:
            header = msgspec.json.decode(reader.readline(), type=TransferHeader)
            _check_header(header)
            with self._fetch_lock(header.digest):
                stored = self._stored_path(header.digest, header.name)
                if tree_digest(str(stored)) != header.digest:
                    yield TransferReply(send=True)
                    self._write_files(header, reader)
                yield TransferReply(path=str(stored))
        except (OSError, ValueError) as error:
            log.warning("a model was not taken: %s", error)
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            yield TransferReply(error=reason)

    def _stored_path(self, name: str, inner: str) -> Path:
        return self._folder / name / inner

    @contextlib.contextmanager
    def _fetch_lock(self, name: str) -> Iterator[None]:
        """Hold the lock under which one process of this node at a time fetches the same files."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write_files(self, header: TransferHeader, reader: BinaryIO) -> None:
        """Write the files to a temporary directory, and move it into place once verified."""
        with tempfile.TemporaryDirectory(prefix=".", dir=self._folder) as beside:
            inner = Path(beside) / "whole"
            for file in header.files:
                target = inner / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                _receive_file(file, target, reader)
            if tree_digest(str(inner / header.name)) != header.digest:
                raise ValueError("the files received differ from the announced ones")
            place = self._folder / header.digest
            shutil.rmtree(place, ignore_errors=True)  # an existing directory is damaged
            inner.rename(place)

    def _from_hub(self, manifest: FileManifest) -> str:
        """Download the files to this node's hub cache; return their path, empty on failure."""
        snapshot = repository_directory(manifest.repository) / "snapshots" / manifest.commit
        with self._fetch_lock(f"{manifest.repository.replace('/', '--')}--{manifest.commit}"):
            if tree_digest(str(snapshot), manifest.names) == manifest.digest:
                return str(snapshot)
            if not _download(manifest):
                return ""
            return (
                str(snapshot)
                if tree_digest(str(snapshot), manifest.names) == manifest.digest
                else ""
            )


def _download(manifest: FileManifest) -> bool:
    """Download the files at their commit; return whether that succeeded.

    Uses a separate process: the hub's library reads environment variables once, at import. The
    worker's variables, which may disable the hub, must not apply to this download.
    """
    ran = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-P", "-m", __name__],
        input=msgspec.json.encode(manifest),
        env={
            **_HUB_ENVIRONMENT,
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if ran.returncode:
        reason = ran.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        log.warning("%s does not come from the hub: %s", manifest.repository, reason)
    return not ran.returncode


def main() -> None:
    """Download the files that standard input names. Raises what the hub's library raises."""
    manifest = msgspec.json.decode(sys.stdin.buffer.read(), type=FileManifest)
    import huggingface_hub

    for name in manifest.names:
        huggingface_hub.hf_hub_download(manifest.repository, name, revision=manifest.commit)


def _check_header(header: TransferHeader) -> None:
    """Raise ``ValueError`` for a model that is too large, or a path outside its directory."""
    if sum(file.size for file in header.files) > MAX_TRANSFER_BYTES:
        raise ValueError("it is too large")
    every = [header.digest, header.name, *(file.name for file in header.files)]
    for name in every:
        if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError("a file name is outside the model's directory")


def _receive_file(file: SentFile, target: Path, reader: BinaryIO) -> None:
    """Write the next bytes to a file and sync it. Raises ``ValueError`` if its hash differs."""
    left, hasher = file.size, hashlib.sha256()
    with target.open("wb") as out:
        while left:
            chunk = reader.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise ValueError("the server disconnected")
            hasher.update(chunk)
            out.write(chunk)
            left -= len(chunk)
        out.flush()
        os.fsync(out.fileno())
    if hasher.hexdigest() != file.sha256:
        raise ValueError("a file was damaged on its way")


if __name__ == "__main__":
    main()
