"""The front-ends of one shared directory: each has a file there, rewritten every second.

Clocks of other machines are not compared: a front-end is alive as long as its file keeps changing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from yarl import URL

from mataserver.config.storage import temporary_file
from mataserver.frontends.resource_ids import TAG_DIGITS, qualified_id, tag_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mataserver.frontends.resource_ids import ResourceIds

FOLDER = "frontends"
HEARTBEAT_SECONDS, SILENCE_SECONDS = 1.0, 6.0
"""The interval of heartbeats in seconds, and the timeout after which a front-end is silent."""
MIN_UNCHANGED_READS = 4
"""Minimum reads that found an entry unchanged: a process that was itself stopped read nothing."""
REFRESH_TIMEOUT = 2.0
"""Seconds that a request waits for a refresh: a network disk may hang."""
STALE_SECONDS = 3600.0
"""Seconds of silence after which the file of a front-end is removed."""
SECRET = "secret"  # noqa: S105 - the name of its file
SECRET_BYTES = 32
_SUFFIX, _TEMPORARY = ".json", ".tmp"
_FILE = re.compile(r"([0-9a-f]{4})\.json")


class FrontendEntry(Struct, frozen=True, kw_only=True):
    """What a front-end publishes about itself.

    address:  the base URL by which the others reach it, empty until it listens.
    beat:     a counter, increased by each heartbeat.
    sessions: the number of sessions that it holds.
    names:    resources that it holds whose ids lack its tag, qualified by their kind.
    """

    address: str = ""
    beat: int = 0
    sessions: int = 0
    names: tuple[str, ...] = ()


@dataclass(slots=True)
class PeerFrontend:
    """Another front-end as last read; ``since`` is the time of its last change, by our clock."""

    tag: str
    entry: FrontendEntry
    since: float
    unchanged_reads: int = 0


class FrontendDirectory:
    """The front-ends of ``folder``, and our own entry there, from ``join`` to ``leave``.

    ``held`` are the ids of our resources, with our tag. ``silence`` and ``clock`` are in seconds.
    Methods raise ``OSError`` if the directory cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        held: ResourceIds,
        silence: float = SILENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.held = held
        self.own = FrontendEntry()
        self.folder = folder
        self._silence = silence
        self._clock = clock
        self._peers: dict[str, PeerFrontend] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._has_entry = False

    async def join(self) -> bytes:
        """Acquire an unused tag; return the secret that all front-ends share."""
        secret, self.held.tag = await asyncio.to_thread(_join, self.folder)
        await self.refresh()
        return secret

    async def write_entry(self, entry: FrontendEntry) -> bool:
        """Write our entry; return whether it still existed.

        Entries of others at our address are removed: a restarted server replaces the one that was
        killed. If two live servers claim one address, each finds its entry missing.
        """
        path = self._path(self.held.tag)
        kept = not self._has_entry or await asyncio.to_thread(path.exists)
        try:
            await asyncio.to_thread(_write, path, entry)
        finally:  # a server that cannot write may still read
            await self.refresh()
        self.own, self._has_entry = entry, True
        for other in list(self._peers.values()):
            previous = entry.address != "" and other.entry.address == entry.address
            if previous or self._clock() - other.since > STALE_SECONDS:
                await asyncio.to_thread(self._path(other.tag).unlink, missing_ok=True)
                self._peers.pop(other.tag, None)
        return kept

    async def leave(self) -> None:
        """Remove our entry, as our resources no longer exist."""
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._path(self.held.tag).unlink, missing_ok=True)

    async def refresh(self) -> None:
        """Read the others' entries. Callers share one read that starts after their call."""
        running = self._refreshing
        if running is not None and not running.done():
            await asyncio.wait([running])
        if self._refreshing is running or self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._read_peers())
        await asyncio.shield(self._refreshing)

    async def _read_peers(self) -> None:
        found = await asyncio.to_thread(_read, self.folder)
        found.pop(self.held.tag, None)
        now = self._clock()
        for tag in self._peers.keys() - found.keys():
            del self._peers[tag]
        for tag, entry in found.items():
            known = self._peers.get(tag)
            if entry is None:  # being created, or not readable: keep the previous one
                continue
            if known is None or known.entry != entry:
                self._peers[tag] = PeerFrontend(tag, entry, now)
            else:
                known.unchanged_reads += 1

    def peers(self) -> list[PeerFrontend]:
        """Return the other front-ends that listen or have listened."""
        return [each for each in self._peers.values() if each.entry.address]

    def is_silent(self, other: PeerFrontend) -> bool:
        """Whether a front-end has stopped sending heartbeats, or left."""
        known = self._peers.get(other.tag)
        if known is None:
            return True
        return (
            known.unchanged_reads >= MIN_UNCHANGED_READS
            and self._clock() - known.since >= self._silence
        )

    async def find_holder(self, kind: str, identity: str, caller: str = "") -> PeerFrontend | None:
        """Return the other front-end that holds a resource; None if none is known to.

        One of ``caller`` takes precedence over others of the same id, and one here over those of
        other front-ends. The directory is read again for an id without a known holder.
        """
        tag, own = tag_of(identity), qualified_id(kind, identity, caller)
        name = qualified_id(kind, identity)
        others = () if name in self.held.announced else (name,)
        found = self._find_known_holder(tag, own, *others)
        if found is None:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(REFRESH_TIMEOUT):
                    await self.refresh()
            found = self._find_known_holder(tag, own, *others)
        return found

    def _find_known_holder(self, tag: str, *names: str) -> PeerFrontend | None:
        # The tag takes precedence: a chosen name may look like an id of another front-end.
        matching = (each for name in names for each in self.peers() if name in each.entry.names)
        return self._peers.get(tag) or next(matching, None)

    def _path(self, tag: str) -> Path:
        return self.folder / f"{tag}{_SUFFIX}"


def _join(folder: Path) -> tuple[bytes, str]:
    """Return the shared secret, which the first front-end creates, and a newly acquired tag."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (
        contextlib.suppress(FileExistsError),
        temporary_file(folder, "", _TEMPORARY) as (file, made),
    ):
        file.write(secrets.token_bytes(SECRET_BYTES))
        file.flush()
        os.fsync(file.fileno())
        os.link(made, folder / SECRET)  # whole, or not at all
        made.unlink()
    secret = (folder / SECRET).read_bytes()
    if len(secret) != SECRET_BYTES:  # with an empty one, anyone could sign
        raise OSError(errno.EINVAL, "damaged: remove it and start all front-ends anew", SECRET)
    while True:
        tag = secrets.token_hex(TAG_DIGITS // 2)
        with contextlib.suppress(FileExistsError):
            ours = os.open(folder / f"{tag}{_SUFFIX}", os.O_CREAT | os.O_EXCL, 0o600)
            try:
                _remove_stale(folder, os.fstat(ours).st_mtime - STALE_SECONDS)
            finally:
                os.close(ours)
            return secret, tag


def _remove_stale(folder: Path, until: float) -> None:
    """Remove unfinished files of killed processes, older than ``until`` on the disk's clock."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            status = path.stat()
            running = path.suffix == _TEMPORARY or (
                _FILE.fullmatch(path.name) and not status.st_size
            )
            if running and status.st_mtime < until:
                path.unlink()


def _write(path: Path, entry: FrontendEntry) -> None:
    """Replace a file atomically; not durably, as it is rewritten every second."""
    with temporary_file(path.parent, "", _TEMPORARY) as (file, made):
        file.write(msgspec.json.encode(entry))
        file.close()  # before: NFS may tell only here that the disk is full
        made.replace(path)


def _read(folder: Path) -> dict[str, FrontendEntry | None]:
    """Return every entry by its tag; None for one that cannot be read."""
    found: dict[str, FrontendEntry | None] = {}
    for path in folder.iterdir():
        match = _FILE.fullmatch(path.name)
        if match:
            try:
                entry = msgspec.json.decode(path.read_bytes(), type=FrontendEntry)
                found[match[1]] = entry if _is_valid_address(entry.address) else None
            except FileNotFoundError:
                continue
            except (OSError, msgspec.DecodeError, UnicodeDecodeError):
                found[match[1]] = None
    return found


def _is_valid_address(address: str) -> bool:
    """Whether an address is an HTTP URL, or empty, as of a front-end that does not listen yet."""
    try:
        url = URL(address, encoded=True)
        return not address or (url.scheme in {"http", "https"} and bool(url.host))
    except ValueError:
        return False
