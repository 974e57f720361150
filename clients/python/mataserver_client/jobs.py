"""Jobs: work that takes longer than a request, its files on their way there and back."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import quote

from mataserver_client.errors import BadRequest, Conflict, MataError, NotFound
from mataserver_client.failures import (
    PASSING_STATUSES,
    BadAnswer,
    ClosedMeanwhile,
    ConnectionFailed,
)
from mataserver_client.replies import Failure, Job, JobCreated, JobFiles
from mataserver_client.requests import Requests
from mataserver_client.transport import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractContextManager

    from mataserver_client.replies import JobFile
    from mataserver_client.transport import Transport

PART_BYTES = 8_000_000
"""Bytes of a file that are sent or asked for at once: what a break costs."""
PATIENCE_SECONDS = 120.0
"""How long a server that answered before may be silent: a restart takes less."""
PAUSE_SECONDS = 1.0
SILENCE_SECONDS = 60.0
"""How long a connection that follows a job may be silent: every 15 s there is an event."""
_TUS = {"Tus-Resumable": "1.0.0"}
_PASSING = {*PASSING_STATUSES, 0, 423, 460}
"""No answer, an upload that another server handles still, a part that was damaged on its way."""
_PATHS = {"reconstruct": "/upload"}

T = TypeVar("T")


class JobRequests(Requests):
    """Starts jobs, follows them and fetches what they made.

    What takes long goes on where it was after a lost connection or the server's restart, unless
    the server is silent for two minutes.
    """

    async def send_file(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        progress: Callable[[int, int], object] | None = None,
        *,
        name: str = "",
    ) -> str:
        """Send a file for a job, in parts; return the id that the job takes as ``upload``.

        ``file`` is a path, or an open binary file, which is sent from its beginning and stays open.
        ``name`` is what the server calls it, in place of its own. ``progress(sent, size)``, in
        bytes, is called in a thread after each part. Raises ``OSError`` for a file that cannot be
        read, and 413 or ``OutOfMemory`` (507) for one that is too large for the server.
        """
        with await asyncio.to_thread(_open, file) as opened:
            own = getattr(opened, "name", "")  # of a file without one a number, or nothing
            name = name or (Path(own).name if isinstance(own, str) else "") or "file"
            size = opened.seek(0, os.SEEK_END)
            called = base64.b64encode(name.encode(errors="replace")).decode()
            begin = {**_TUS, "Upload-Length": str(size), "Upload-Metadata": f"filename {called}"}
            made = await self._transport.request("POST", "/v1/uploads", headers=begin)
            upload = made.headers.get("Location", "").rpartition("/")[2]
            offset, patience = 0, _Patience()
            while offset < size:
                opened.seek(offset)
                data = await asyncio.to_thread(opened.read, PART_BYTES)
                if not data:
                    raise BadRequest(f"{name} has become shorter while it was sent")
                send = partial(_send_part, self._transport, f"/v1/uploads/{upload}", offset, data)
                offset = await patience.repeat(send)
                if progress is not None:
                    await asyncio.to_thread(progress, offset, size)
        return upload

    async def create_job(
        self, kind: str, /, *, idempotency_key: str | None = None, **spec: Any
    ) -> str:
        """Start a job of a kind (``infer``, ``reconstruct``, a plugin's); return its id.

        A call that is repeated with the same ``idempotency_key`` starts no second job. Raises
        ``InvalidParams`` for a wrong ``spec``, ``NotFound`` for a kind that there is not.
        """
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        path = _PATHS.get(kind) or _place(kind)
        answer = await self.request("POST", path, spec, headers=headers)
        created = answer.decode(JobCreated)
        return created.id or created.job_id

    async def job(self, job_id: str) -> Job:
        """Return a job. Raises ``NotFound``."""
        return (await self._transport.request("GET", _place(job_id))).decode(Job)

    async def follow_job(self, job_id: str) -> AsyncGenerator[Job, None]:
        """Iterate over a job's states: the present one, each that follows, at last its end.

        Raises ``NotFound`` where it is removed meanwhile.
        """
        patience = _Patience(answered=False)
        job: Job | None = None
        while True:
            failure: MataError = ConnectionFailed("The server's events ended before the job")
            try:
                async with contextlib.aclosing(self._states(job_id)) as states:
                    async for state in states:
                        patience.begin()
                        before, job = job, state
                        if state != before:
                            yield state
                        if state.finished_at is not None:
                            return
            except MataError as error:
                failure = error
            await patience.pause(failure)

    async def _states(self, job_id: str) -> AsyncGenerator[Job, None]:
        """Yield what one connection says of a job. Raises what it ends by."""
        path = f"{_place(job_id)}/events"
        events = self._transport.events("GET", path, silence=SILENCE_SECONDS)
        async with contextlib.aclosing(events):
            async for kind, data in events:
                answer = Answer(data, msgpack=False)
                if kind == "error":  # the server shuts down, or has lost its database
                    raise ConnectionFailed(answer.decode(Failure).detail)
                yield answer.decode(Job)

    async def wait_job(self, job_id: str) -> Job:
        """Wait for a job's end, however it ends; return it. Raises as ``follow_job`` does."""
        job = await self.job(job_id)
        async with contextlib.aclosing(self.follow_job(job_id)) as states:
            async for job in states:  # noqa: B007 - the last one counts
                pass
        return job

    async def cancel_job(self, job_id: str) -> Job:
        """Have a job stop, soon. Raises ``Conflict`` once it has ended."""
        return (await self._transport.request("POST", f"{_place(job_id)}/cancel")).decode(Job)

    async def delete_job(self, job_id: str) -> None:
        """Remove a job that has ended, with its files. Raises ``Conflict`` before its end."""
        await self._transport.request("DELETE", _place(job_id))

    async def download_job(
        self,
        job_id: str,
        folder: str | os.PathLike[str] = ".",
        *names: str,
        progress: Callable[[Path], object] | None = None,
    ) -> list[Path]:
        """Download the files of a job's result, or those of ``names``; return where they are.

        A file that is there is replaced. One that a program that ended began with is continued.
        ``progress(path)`` is called in a thread when a file is there.
        Raises ``NotFound`` for a name that there is not, and ``Conflict`` for a file that changes.
        """
        answer = await self._transport.request("GET", f"{_place(job_id)}/files")
        files = {file.name: file for file in answer.decode(JobFiles).files}
        if missing := next((name for name in names if name not in files), None):
            raise NotFound(f"The job has no file {missing}")
        paths = []
        for name in names or files:
            download = _Download(self._transport, job_id, Path(folder), files[name])
            paths.append(await download.run())
            if progress is not None:
                await asyncio.to_thread(progress, paths[-1])
        return paths


class _Patience:
    """How long a server that has answered is waited for when it does not."""

    def __init__(self, *, answered: bool = True) -> None:
        self._answered = answered
        self._until: float | None = None

    def begin(self) -> None:
        """Begin anew: it answered."""
        self._answered, self._until = True, None

    async def pause(self, failure: MataError) -> None:
        """Wait before the next try, or raise ``failure`` where there is none."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + PATIENCE_SECONDS
        lasting = isinstance(failure, (BadAnswer, ClosedMeanwhile))
        passing = failure.status in _PASSING and not lasting
        if not passing or not self._answered or now > self._until:
            raise failure
        await asyncio.sleep(PAUSE_SECONDS)

    async def repeat(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do what has no effect if it is done twice, until it is answered."""
        self.begin()
        while True:
            try:
                return await step()
            except MataError as error:
                await self.pause(error)


class _Download:
    """A file of a job's result on its way to a folder, in parts; goes on after a break."""

    def __init__(self, transport: Transport, job_id: str, folder: Path, file: JobFile) -> None:
        self._transport = transport
        self._path = f"{_place(job_id)}/files/{quote(file.name)}"
        self._folder = folder
        self._file = file
        self._tag: str | None = None

    async def run(self) -> Path:
        """Fetch it; return where it is."""
        target = self._folder / self._file.name
        if not target.resolve().is_relative_to(self._folder.resolve()):
            raise BadAnswer(f"A file of the job leads out of the folder: {self._file.name}")
        digest = hashlib.sha256(target.name.encode()).hexdigest()[:16]
        part = target.with_name(f"{digest}.part") / f"{self._file.modified:.6f}"
        await asyncio.to_thread(_begin, part)
        patience = _Patience()
        with await asyncio.to_thread(part.open, "r+b") as out:
            while (offset := out.seek(0, os.SEEK_END)) < self._file.size:
                data = await patience.repeat(partial(self._part, offset))
                await asyncio.to_thread(out.write, data)
        await asyncio.to_thread(part.replace, target)
        with contextlib.suppress(OSError):  # another program downloads it, too
            await asyncio.to_thread(part.parent.rmdir)
        return target

    async def _part(self, offset: int) -> bytes:
        last = min(self._file.size, offset + PART_BYTES) - 1
        headers = {"Range": f"bytes={offset}-{last}", "Accept-Encoding": "identity"}
        answer = await self._transport.request("GET", self._path, headers=headers)
        tag, self._tag = self._tag, answer.headers.get("ETag", "")
        if tag not in {None, self._tag}:
            raise Conflict(f"The file has changed while it was downloaded: {self._file.name}")
        if len(answer.body) != last + 1 - offset or "Content-Range" not in answer.headers:
            raise BadAnswer("The server's answer is not the part of the file that was asked for")
        return answer.body


def _open(file: str | os.PathLike[str] | BinaryIO) -> AbstractContextManager[BinaryIO]:
    """Open a file; one that is open is its owner's to close."""
    if isinstance(file, (str, os.PathLike)):
        return Path(file).open("rb")
    if hasattr(file, "encoding") or not hasattr(file, "seek"):
        raise TypeError("what is sent is a path or a file that was opened in binary mode")
    return contextlib.nullcontext(file)


async def _send_part(transport: Transport, path: str, offset: int, data: bytes) -> int:
    """Send a part of an upload; return where the next one begins."""
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    headers = {
        **_TUS,
        "Upload-Offset": str(offset),
        "Upload-Checksum": f"sha256 {digest}",
        "Content-Type": "application/offset+octet-stream",
    }
    try:
        answer = await transport.request("PATCH", path, data=data, headers=headers)
    except Conflict:
        answer = await transport.request("HEAD", path, headers=_TUS)
        if _offset(answer) == offset:
            raise
        # It came, and its answer did not.
    return _offset(answer)


def _offset(answer: Answer) -> int:
    try:
        return int(answer.headers["Upload-Offset"])
    except (KeyError, ValueError):
        raise BadAnswer("The server does not say where an upload continues") from None


def _place(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _begin(part: Path) -> None:
    """Make a file's folder, as its name has no room for more; what it was before goes."""
    part.parent.mkdir(parents=True, exist_ok=True)
    for other in part.parent.iterdir():
        if other != part:
            other.unlink(missing_ok=True)
    part.touch()
