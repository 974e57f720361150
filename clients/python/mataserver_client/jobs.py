"""Jobs: work that takes longer than a request, its files on their way there and back."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

from mataserver_client.downloads import Download
from mataserver_client.errors import BadRequest, Conflict, MataError, NotFound
from mataserver_client.failures import BadAnswer, ConnectionFailed
from mataserver_client.patience import Patience
from mataserver_client.replies import Failure, Job, JobCreated, JobFiles
from mataserver_client.requests import Requests
from mataserver_client.transport import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractContextManager

    from mataserver_client.transport import Transport

PART_BYTES = 8_000_000
"""Bytes of a file that are sent at once: what a break costs."""
SILENCE_SECONDS = 60.0
"""How long a connection that follows a job may be silent: every 15 s there is an event."""
_TUS = {"Tus-Resumable": "1.0.0"}
_PATHS = {"reconstruct": "/upload"}


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
            offset, patience = 0, Patience()
            while offset < size:
                opened.seek(offset)
                data = await asyncio.to_thread(opened.read, min(PART_BYTES, size - offset))
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
        patience = Patience(answered=False)
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
        files = [file.name for file in answer.decode(JobFiles).files]
        if missing := next((name for name in names if name not in files), None):
            raise NotFound(f"The job has no file {missing}")
        paths = []
        for name in names or files:
            path = f"{_place(job_id)}/files/{quote(name)}"
            download = Download(self._transport, path, Path(folder), name)
            paths.append(await download.run())
            if progress is not None:
                await asyncio.to_thread(progress, paths[-1])
        return paths


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
