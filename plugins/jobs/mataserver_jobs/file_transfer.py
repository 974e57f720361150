"""Files of a job on their way to a node and back: names, sizes and SHA-256, then their bytes.

For nodes that do not have the folder of the jobs. Whoever sends back waits after each piece until
it is asked for more, so that nobody holds more than one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

FILES = 500
"""Files of a parcel: a message has a largest length."""
PIECE = 1 << 20
"""Maximum bytes of a piece."""
_PREFIX, _LOCK = "mataserver-job-", "lock"


class ParcelFile(Struct, frozen=True):
    """A file: its path below the folder that is sent, its bytes, their SHA-256."""

    name: str
    size: int
    sha256: str


class Parcel(Struct, frozen=True, tag="parcel"):
    """What comes next, file after file, in pieces of ``PIECE`` bytes and less at each one's end.

    ``more`` says that another parcel follows it.
    """

    files: list[ParcelFile]
    more: bool = False


class Piece(Struct, frozen=True, tag="piece"):
    """So many bytes come next."""

    size: int


class NextPiece(Struct, frozen=True):
    """A piece was taken: send the next one."""


class TransferError(Exception):
    """The received bytes are not the announced ones."""


def describe_files(root: Path) -> Parcel:
    """Return the description of the files below a folder, without links. Blocking."""
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    return Parcel([_describe_file(root, path) for path in files])


def split_parcel(whole: Parcel) -> Iterator[Parcel]:
    """Yield a parcel in parts of ``FILES``, one at least."""
    for start in range(0, max(1, len(whole.files)), FILES):
        part = whole.files[start : start + FILES]
        yield Parcel(part, more=start + FILES < len(whole.files))


def read_pieces(root: Path, parcel: Parcel) -> Iterator[bytes]:
    """Yield the bytes of described files. Blocking. Raises ``TransferError`` for a changed one.

    Nothing is put in the place of bytes that are missing: the SHA-256 would not match anyway.
    """
    for file in parcel.files:
        left = file.size
        with (root / file.name).open("rb") as opened:
            while left:
                piece = opened.read(min(PIECE, left))
                if len(piece) != min(PIECE, left):
                    raise TransferError(f"{file.name} became shorter")
                left -= len(piece)
                yield piece


def receive_files(root: Path, parcel: Parcel) -> Generator[int, bytes, None]:
    """Write files below a folder: yield how many bytes come next, and be sent them. Blocking.

    Raises ``TransferError`` for too few or different bytes, and for a name that leads out of the
    folder.
    """
    for file in parcel.files:
        path = PurePosixPath(file.name)
        if not path.parts or path.is_absolute() or ".." in path.parts:
            raise TransferError("a name leads elsewhere")
        target, left, whole = root / path, file.size, hashlib.sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise TransferError(f"{file.name} comes twice")
        with target.open("wb") as out:
            while left:
                piece = yield min(PIECE, left)
                if len(piece) != min(PIECE, left):
                    raise TransferError(f"{file.name} broke off")
                left -= len(piece)
                whole.update(piece)
                out.write(piece)
        if whole.hexdigest() != file.sha256:
            raise TransferError(f"{file.name} has other bytes")


def receive_all(root: Path, parcel: Parcel, read: Callable[[int], bytes]) -> None:
    """Write files below a folder with what ``read(size)`` gives. Raises ``TransferError``."""
    writer = receive_files(root, parcel)
    with contextlib.suppress(StopIteration):
        size = next(writer)
        while True:
            size = writer.send(read(size))


@contextlib.contextmanager
def node_folder() -> Iterator[Path]:
    """Give a folder of this node until the context ends; first remove those of killed processes."""
    _remove_orphaned_folders(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder


def _remove_orphaned_folders(place: Path) -> None:
    """Remove folders of jobs without a lock: their processes were killed."""
    for folder in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (folder / _LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _describe_file(root: Path, path: Path) -> ParcelFile:
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return ParcelFile(path.relative_to(root).as_posix(), path.stat().st_size, digest)
