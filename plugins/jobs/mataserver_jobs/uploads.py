"""Uploads that may break off and go on: files of their own until a job takes them.

Beside the bytes of an upload stands what is known of it; where it goes on is the size of its file.
Neither a restart of the server nor kill -9 loses more than what the client was not told of. A full
disk is told as the system tells it, and answered 507: what arrived before stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import threading
import time
import uuid
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from mataserver import Conflict, NotFound, OutOfMemory, Unavailable, sync
from mataserver_jobs import durable
from mataserver_jobs.disk import is_full
from mataserver_jobs.record import is_id
from mataserver_jobs.upload_writer import TooLarge, Writer, counted, digest_of, locks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

MAX_UPLOADS_OF_ONE = 1000
"""Uploads of one owner."""
_KNOWN = "known.json"
_DATA = "data"
_STRAY_SECONDS, _PATIENCE, _INTERVAL = 3_600.0, 10.0, 0.02
"""How long one of which nothing is known is seen before it goes; how long another server may keep
the folder locked, and between two looks at it."""

log = logging.getLogger("mataserver.plugin.jobs")


class Upload(Struct, frozen=True, kw_only=True):
    """One upload. ``length`` and ``offset`` in bytes.

    name:       what the client calls its file.
    metadata:   the header ``Upload-Metadata`` as it was sent.
    expires_at: when it goes, by the clock of ``Uploads``.
    job:        which job took it; its bytes are that job's now.
    """

    id: str
    owner: str
    length: int
    name: str = ""
    metadata: str = ""
    expires_at: float
    job: str | None = None
    offset: int = 0


class Uploads:
    """The uploads below ``root``. Every method but ``taking`` is blocking.

    most:     bytes of one upload.
    budget:   bytes of all; of one owner half of them, or ``max_bytes``.
    keep:     seconds until one that is not gone on with is removed.
    min_free: bytes that must stay free on the disk.
    clock:    gives seconds that are never set: ``LivedTime``.
    """

    def __init__(
        self,
        root: Path,
        *,
        max_bytes: int,
        budget: int,
        keep: float,
        min_free: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self.max_bytes = max_bytes
        self._budget = budget
        self._keep = keep
        self._min_free = min_free
        self._clock = clock
        self._create_lock = threading.Lock()
        self._strays: dict[str, float] = {}

    def create(self, owner: str, length: int, name: str = "", metadata: str = "") -> Upload:
        """Begin an upload.

        Raises ``TooLarge``, ``Conflict`` for too many, ``OutOfMemory`` (507) where it would not fit
        beside what is promised to others.
        """
        if length > self.max_bytes:
            raise TooLarge(f"An upload has {self.max_bytes} bytes at most")
        with self._create_lock, _locked(self._root):  # two at once would both find room
            others = [each for each in self._all() if each.job is None]
            self._check_owner([each for each in others if each.owner == owner], length)
            self._check_room(others, length)
            return self._create_folder(owner, length, name, metadata)

    def _create_folder(self, owner: str, length: int, name: str, metadata: str) -> Upload:
        made = Upload(
            id=str(uuid.uuid4()),
            owner=owner,
            length=length,
            name=name,
            metadata=metadata,
            expires_at=self._clock() + self._keep,
        )
        try:
            (folder := self._root / made.id).mkdir(parents=True)
            (folder / _DATA).touch()
            self._write(made)
            sync(self._root)
        except OSError:
            self.remove(made.id)
            raise
        return made

    def _check_owner(self, own: list[Upload], length: int) -> None:
        """Refuse what would take the room of others: to promise bytes costs nothing."""
        if len(own) >= MAX_UPLOADS_OF_ONE:
            raise Conflict(f"There are {MAX_UPLOADS_OF_ONE} uploads already, which is the most")
        if sum(each.length for each in own) + length > max(self.max_bytes, self._budget // 2):
            raise OutOfMemory("Your uploads have no room for another: finish one or cancel it")

    def _check_room(self, others: list[Upload], length: int) -> None:
        if sum(each.length for each in others) + length > self._budget:
            raise OutOfMemory("There is no room for another upload")
        promised = sum(each.length - each.offset for each in others)
        if shutil.disk_usage(self._root).free - promised - length < self._min_free:
            raise OutOfMemory("The disk has no room for the upload")

    def get(self, upload: str, owner: str | None = None) -> Upload:
        """Return an upload; with ``owner``, one of theirs. Raises ``NotFound``."""
        known = self._read(upload) if is_id(upload) else None
        if known is None or known.expires_at < self._clock() or owner not in {None, known.owner}:
            raise NotFound("Upload not found")
        return known

    def writer(self, upload: Upload, offset: int, checksum: str = "") -> Writer:
        """Return the writer that continues an upload at ``offset``.

        Raises ``Conflict`` where that is not where it goes on, or a job has taken it, ``Locked``
        while another server writes it, ``BadRequest`` for an unknown checksum.
        """
        digest = digest_of(checksum)
        if upload.job is not None:
            raise Conflict("A job has taken the upload")
        with _not_found_if_missing():
            return Writer(self._root / upload.id / _DATA, upload.length, offset, digest)

    def extend(self, upload: Upload) -> Upload:
        """Restart an upload's expiry; return it as it is now."""
        with _not_found_if_missing():
            fresh = msgspec.structs.replace(upload, expires_at=self._clock() + self._keep)
            self._write(fresh)
        return self.get(upload.id)

    def remove(self, upload: str) -> None:
        """Remove an upload."""
        shutil.rmtree(self._root / upload, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def reserve(self, upload: str, owner: str | None = None) -> AsyncIterator[Upload]:
        """Give an upload, for a job that takes it: within the context no other does or writes it.

        Raises ``NotFound``, and ``Conflict`` while another request takes or writes it.
        """
        with contextlib.ExitStack() as stack:
            yield await asyncio.to_thread(self._claim, upload, owner, stack)

    def _claim(self, upload: str, owner: str | None, stack: contextlib.ExitStack) -> Upload:
        known = self.get(upload, owner)
        if known.job is None:
            with contextlib.suppress(FileNotFoundError):  # it is taken just now
                path = self._root / known.id / _DATA
                file = stack.enter_context(path.open("r+b", buffering=0))
                if not locks(file):
                    raise Conflict("Another request takes or writes the upload now")
        return self.get(upload, owner)  # as it is under the lock

    def hand_over(self, upload: Upload, target: Path) -> None:
        """Give a job the bytes of an upload. Raises ``Conflict`` for one that is not whole."""
        if upload.offset != upload.length:
            raise Conflict(f"The upload has {upload.offset} of {upload.length} bytes")
        with _not_found_if_missing():
            os.link(self._root / upload.id / _DATA, target)

    def note_taken(self, upload: Upload, job: str) -> None:
        """Note that a job has an upload's bytes; they are the job's alone from now on.

        Where that cannot be noted the upload goes: nothing may take its bytes for a second job.
        One that was removed meanwhile is no fault: the job has the bytes.
        """
        with contextlib.suppress(FileNotFoundError):
            try:
                self._write(msgspec.structs.replace(upload, job=job))
            except OSError as error:
                if not is_full(error):
                    raise
                self.remove(upload.id)
        (self._root / upload.id / _DATA).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove the uploads whose time is over, or of which nothing is known; return how many."""
        now, count, strays = self._clock(), 0, dict[str, float]()
        for path in self._folders():
            known = self._read(path.name)
            over = known.expires_at if known else self._strays.get(path.name, now + _STRAY_SECONDS)
            if known is None:  # it is just being made, or cannot be read now, or a killed server's
                strays[path.name] = over
            # One that would last longer than any can: another database's time went further.
            if over < now or over > now + 2 * max(self._keep, _STRAY_SECONDS):
                self.remove(path.name)
                count += 1
        self._strays = strays
        return count

    def left(self, upload: Upload) -> float:
        """Return the seconds until an upload goes, if a server runs all the while."""
        return upload.expires_at - self._clock()

    def owners(self) -> set[str]:
        """Return who has uploads."""
        return {each.owner for each in self._all()}

    def remove_of(self, owner: str) -> None:
        """Remove the uploads of an owner."""
        for each in (known for known in self._all() if known.owner == owner):
            self.remove(each.id)

    def _all(self) -> list[Upload]:
        return [each for path in self._folders() if (each := self._read(path.name)) is not None]

    def _folders(self) -> list[Path]:
        if not self._root.is_dir():
            return []
        return [path for path in self._root.iterdir() if is_id(path.name)]

    def _read(self, upload: str) -> Upload | None:
        folder = self._root / upload
        try:
            known = msgspec.json.decode((folder / _KNOWN).read_bytes(), type=Upload)
            size = known.length if known.job is not None else counted(folder / _DATA)
        except (OSError, msgspec.DecodeError):
            return None
        return msgspec.structs.replace(known, offset=size)

    def _write(self, upload: Upload) -> None:
        """Write down what is known, whole or not at all."""
        durable.replace(self._root / upload.id / _KNOWN, msgspec.json.encode(upload))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep the other servers that share a folder, made here if it is missing, from this block.

    Raises ``Unavailable`` if another one keeps it for ``_PATIENCE`` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A file that is open for writing: NFS passes the lock of no folder on to the other machines.
    place = folder.with_name(f".{folder.name}.lock")
    held = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _PATIENCE
        while not _take(held):
            if time.monotonic() > deadline:
                raise Unavailable("Another server keeps the folder of the uploads locked")
            time.sleep(_INTERVAL)
        yield
    finally:
        os.close(held)


def _take(descriptor: int) -> bool:
    """Lock a file until its descriptor is closed; return False while another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        log.warning("uploads: servers that share the folder cannot wait for each other: %s", error)
    return True


@contextlib.contextmanager
def _not_found_if_missing() -> Iterator[None]:
    """Raise ``NotFound`` for an upload that was removed meanwhile."""
    try:
        yield
    except FileNotFoundError:
        raise NotFound("Upload not found") from None
