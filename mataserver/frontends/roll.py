"""The front-ends of one shared directory: each has a file there, and writes it anew every second.

No clock of another machine is looked at: a front-end is alive as long as its file goes on changing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from yarl import URL

from mataserver.frontends.held import TAG, named, tag_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.frontends.held import HeldNames

FOLDER = "frontends"
BEAT, SILENCE = 1.0, 6.0
"""Seconds between two signs of life, and after which a front-end without one is silent."""
LOOKS = 4
"""Looks that must have found no sign of life as well: who stood still itself has not looked."""
LOOK_SECONDS = 2.0
"""How long a look may take that a request waits for: a disk of the network may stand still."""
FORGET = 3600.0
"""Seconds of silence after which the file of a front-end is removed."""
SECRET = "secret"  # noqa: S105 - the name of its file
SECRET_BYTES = 32
_SUFFIX, _TEMPORARY = ".json", ".tmp"
_FILE = re.compile(r"([0-9a-f]{4})\.json")


class RollEntry(Struct, frozen=True, kw_only=True):
    """What a front-end tells of itself.

    address:  the base URL by which the others reach it, empty until it listens.
    beat:     another number each time.
    sessions: how many it holds.
    names:    what it holds whose id does not tell it, with its kind.
    """

    address: str = ""
    beat: int = 0
    sessions: int = 0
    names: tuple[str, ...] = ()


@dataclass(slots=True)
class Listed:
    """Another front-end as it was seen last; ``since`` when it last changed, by our clock."""

    tag: str
    entry: RollEntry
    since: float
    looks: int = 0


class Roll:
    """The front-ends of ``folder``, and our own entry there, from ``join`` to ``leave``.

    ``held`` is what we hold, with our tag. Raises ``OSError`` where the directory cannot be used.
    ``silence`` and ``clock`` are in seconds.
    """

    def __init__(
        self,
        folder: Path,
        held: HeldNames,
        silence: float = SILENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.held = held
        self.own = RollEntry()
        self.folder = folder
        self._silence = silence
        self._clock = clock
        self._others: dict[str, Listed] = {}
        self._looking: asyncio.Task[None] | None = None
        self._written = False

    async def join(self) -> bytes:
        """Take a tag that nobody has; return the secret that all front-ends share."""
        secret, self.held.tag = await asyncio.to_thread(_joined, self.folder)
        await self.look()
        return secret

    async def tell(self, entry: RollEntry) -> bool:
        """Write our entry, and whether it was still there.

        Who starts again at the address of one that was killed takes its place. Where two think that
        they are at one address, each finds its entry gone.
        """
        path = self._path(self.held.tag)
        kept = not self._written or await asyncio.to_thread(path.exists)
        try:
            await asyncio.to_thread(_write, path, entry)
        finally:  # who cannot tell can still listen
            await self.look()
        self.own, self._written = entry, True
        for other in list(self._others.values()):
            former = entry.address != "" and other.entry.address == entry.address
            if former or self._clock() - other.since > FORGET:
                await asyncio.to_thread(self._path(other.tag).unlink, missing_ok=True)
                self._others.pop(other.tag, None)
        return kept

    async def leave(self) -> None:
        """Remove our entry: what we held is gone."""
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._path(self.held.tag).unlink, missing_ok=True)

    async def look(self) -> None:
        """Read what the others tell now. Callers share a look that begins after they asked."""
        begun = self._looking
        if begun is not None and not begun.done():
            await asyncio.wait([begun])
        if self._looking is begun or self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        found = await asyncio.to_thread(_read, self.folder)
        found.pop(self.held.tag, None)
        now = self._clock()
        for tag in self._others.keys() - found.keys():
            del self._others[tag]
        for tag, entry in found.items():
            known = self._others.get(tag)
            if entry is None:  # being made, or not ours to read: as it was
                continue
            if known is None or known.entry != entry:
                self._others[tag] = Listed(tag, entry, now)
            else:
                known.looks += 1

    def others(self) -> list[Listed]:
        """Return the other front-ends that listen, or did."""
        return [each for each in self._others.values() if each.entry.address]

    def silent(self, other: Listed) -> bool:
        """Whether a front-end gives no sign of life any more."""
        known = self._others.get(other.tag)
        if known is None:
            return True
        return known.looks >= LOOKS and self._clock() - known.since >= self._silence

    async def holder(self, kind: str, identity: str) -> Listed | None:
        """Return which other front-end holds what an id names; None where none is known to.

        The directory is looked at for an id that nobody known holds.
        """
        tag, name = tag_of(identity), named(kind, identity)
        found = self._holder(tag, name)
        if found is None:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self.look()
            found = self._holder(tag, name)
        return found

    def _holder(self, tag: str, name: str) -> Listed | None:
        # By its tag first: a name that looks like another's id must not lead away from it.
        telling = (each for each in self.others() if name in each.entry.names)
        return self._others.get(tag) or next(telling, None)

    def _path(self, tag: str) -> Path:
        return self.folder / f"{tag}{_SUFFIX}"


def _joined(folder: Path) -> tuple[bytes, str]:
    """Return the shared secret, made by whoever comes first, and a tag that is ours from now on."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        made = _temporary(folder, secrets.token_bytes(SECRET_BYTES), durable=True)
        try:
            os.link(made, folder / SECRET)  # whole, or not at all
        finally:
            made.unlink()
    secret = (folder / SECRET).read_bytes()
    if len(secret) != SECRET_BYTES:  # anybody could sign with an empty one
        raise OSError(errno.EINVAL, "damaged: remove it and start all front-ends anew", SECRET)
    while True:
        tag = secrets.token_hex(TAG // 2)
        with contextlib.suppress(FileExistsError):
            ours = os.open(folder / f"{tag}{_SUFFIX}", os.O_CREAT | os.O_EXCL, 0o600)
            try:
                _sweep(folder, os.fstat(ours).st_mtime - FORGET)
            finally:
                os.close(ours)
            return secret, tag


def _sweep(folder: Path, until: float) -> None:
    """Remove what was begun by that time, on the clock of the disk, by others that were killed."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            status = path.stat()
            begun = path.suffix == _TEMPORARY or (_FILE.fullmatch(path.name) and not status.st_size)
            if begun and status.st_mtime < until:
                path.unlink()


def _write(path: Path, entry: RollEntry) -> None:
    """Replace a file in one step. What a crash of the machine loses is written a second later."""
    made = _temporary(path.parent, msgspec.json.encode(entry))
    try:
        made.replace(path)
    except BaseException:
        made.unlink()
        raise


def _temporary(folder: Path, content: bytes, *, durable: bool = False) -> Path:
    """Return a new file, readable by our own user alone; a durable one outlasts a power cut."""
    descriptor, name = tempfile.mkstemp(dir=folder, suffix=_TEMPORARY)
    made = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        made.unlink()  # on a disk that is full one would be left each second
        raise
    return made


def _read(folder: Path) -> dict[str, RollEntry | None]:
    """Return every entry by its tag; None for one that cannot be read now."""
    found: dict[str, RollEntry | None] = {}
    for path in folder.iterdir():
        match = _FILE.fullmatch(path.name)
        if match:
            try:
                entry = msgspec.json.decode(path.read_bytes(), type=RollEntry)
                found[match[1]] = entry if _can_be_asked(entry.address) else None
            except FileNotFoundError:
                continue
            except (OSError, msgspec.DecodeError, UnicodeDecodeError):
                found[match[1]] = None
    return found


def _can_be_asked(address: str) -> bool:
    """Whether an address is one of HTTP, or that of a front-end which does not listen yet."""
    try:
        url = URL(address, encoded=True)
        return not address or (url.scheme in {"http", "https"} and bool(url.host))
    except ValueError:
        return False
