"""Files of jobs' results on their way to a folder."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from mataserver_client.errors import Conflict, MataError
from mataserver_client.failures import BadAnswer
from mataserver_client.patience import Patience

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mataserver_client.transport import Transport

PART_BYTES = 8_000_000
"""Bytes of a file that are asked for at once: what a break costs."""
_WHOLE = {"Accept-Encoding": "identity"}
"""A range is one of the file as it is, not of what it is compressed to."""
_OTHER = 412
"""The status of a file that is no more the one of ``If-Match``."""


class Download:
    """A file on its way to a folder, in parts; goes on after a break, also of another program.

    All parts are of the file with one ``ETag``, by which a part that is there is known again.
    """

    def __init__(self, transport: Transport, path: str, folder: Path, name: str) -> None:
        self._transport = transport
        self._path = path
        self._folder = folder
        self._name = name

    async def run(self) -> Path:
        """Fetch it; return where it is. Raises ``Conflict`` if it changes meanwhile."""
        target = self._folder / self._name
        if not target.resolve().is_relative_to(self._folder.resolve()):
            raise BadAnswer(f"A file of the job leads out of the folder: {self._name}")
        patience = Patience()
        tag, size = await patience.repeat(self._state)
        part = target.with_name(f"{_digest(target.name)}.part") / _digest(tag)
        while True:
            with await asyncio.to_thread(_begin, part, size) as out:
                while (offset := out.seek(0, os.SEEK_END)) < size:
                    data = await patience.repeat(partial(self._part, tag, offset, size))
                    await asyncio.to_thread(out.write, data)
                written = os.fstat(out.fileno())
            if await asyncio.to_thread(_put, written, part, target):
                return target
            # It changed, or two other programs put the same one in its place, one after the other.
            if (await patience.repeat(self._state))[0] != tag:
                raise self._changed

    async def _state(self) -> tuple[str, int]:
        """Return the file's ``ETag``, and its bytes."""
        answer = await self._transport.request("HEAD", self._path, headers=_WHOLE)
        try:
            return answer.headers["ETag"], int(answer.headers["Content-Length"])
        except (KeyError, ValueError):
            raise BadAnswer("The server does not say which file it is, or how long") from None

    @property
    def _changed(self) -> Conflict:
        return Conflict(f"The file has changed while it was downloaded: {self._name}")

    async def _part(self, tag: str, offset: int, size: int) -> bytes:
        last = min(size, offset + PART_BYTES) - 1
        headers = {**_WHOLE, "Range": f"bytes={offset}-{last}", "If-Match": tag}
        try:
            answer = await self._transport.request("GET", self._path, headers=headers)
        except MataError as error:
            raise self._changed if error.status == _OTHER else error from None
        if answer.headers.get("ETag") != tag:
            raise self._changed
        if len(answer.body) != last + 1 - offset or "Content-Range" not in answer.headers:
            raise BadAnswer("The server's answer is not the part of the file that was asked for")
        return answer.body


def _digest(text: str) -> str:
    """Return a name for a text that may be longer than names are."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _begin(part: Path, size: int) -> BinaryIO:
    """Open a file in a folder, as its name has no room for more; what it was before goes.

    Other programs may do the same, and remove the folder when theirs is whole.
    """
    part.parent.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with contextlib.suppress(FileNotFoundError), _alone(part.parent.parent):
            part.parent.mkdir(exist_ok=True)
            for other in part.parent.iterdir():
                if other != part or other.stat().st_size > size:
                    other.unlink(missing_ok=True)
            # Other than "a+b" it writes where it stands: two programs write the same bytes there.
            return os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")


def _put(written: os.stat_result, part: Path, target: Path) -> bool:
    """Put what was written in its place, unless another program that wrote it, too, was first.

    False if it is in neither: it was of a file that has changed, and went.
    """
    for place in (part, target):
        with contextlib.suppress(FileNotFoundError), _alone(target.parent):
            found = place.stat()
            # The number of a file that is gone may be another's, which has not all come yet.
            if os.path.samestat(found, written) and found.st_size == written.st_size:
                place.replace(target)
                with contextlib.suppress(OSError):  # another program begins anew
                    part.parent.rmdir()
                return True
    return False


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other programs from the parts in a folder, where the system and the folder can.

    It takes no longer than a look at them does: after 5 s somebody else has locked the folder.
    """
    if sys.platform == "win32" or not os.access(folder, os.R_OK):
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(500):
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:  # of a file system that has no such locks
                break
            else:
                break
        yield
    finally:
        os.close(held)
