"""One job at a time of those that run: its process is started, followed, and its end noted.

What a process tells is written down as it comes; a job that was claimed and not finished is given
back, or costs an attempt, by whose fault that was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import MataError, OutOfMemory, Unavailable
from mataserver_jobs import child, file_transfer, lease_guard
from mataserver_jobs.attempt import (
    RENEW_SECONDS,
    Attempt,
    failed_transfer_end,
    final_message,
    pause,
)
from mataserver_jobs.disk import FULL, is_filled, is_full
from mataserver_jobs.file_transfer import TransferError
from mataserver_jobs.kinds import Assignment
from mataserver_jobs.returned_files import ReturnedFiles, sweep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from mataserver import Child
    from mataserver_jobs.job_tokens import JobTokens
    from mataserver_jobs.kinds import Access, Ended, JobKind
    from mataserver_jobs.record import Record
    from mataserver_jobs.store import Store

RETRY_SECONDS = 1.0
WRITE_RETRY_SECONDS = 3.0
"""How long a job waits that could not be started: without room, or without a cluster."""
NICE = 19

log = logging.getLogger("mataserver.plugin.jobs")


class Supervisor:
    """Runs jobs that were claimed, each in a process of its own below ``folder``.

    ``stopping`` is set when the server stops: then jobs end soon, and no attempt is counted. The
    others are as ``LocalRunner`` has them.
    """

    def __init__(
        self,
        store: Store,
        kinds: Mapping[str, JobKind],
        folder: Path,
        run_process: Callable[..., Any],
        stopping: asyncio.Event,
        *,
        tokens: JobTokens | None,
        transfers_files: bool,
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._folder = folder
        self._run_process = run_process
        self._stopping = stopping
        self._tokens = tokens
        self._transfers_files = transfers_files
        self._attempts: set[Attempt] = set()

    def wake(self) -> None:
        """Check now whether a job is to stop."""
        for attempt in self._attempts:
            attempt.wake()

    async def run(self, record: Record, claimed: float) -> None:
        """Run a job. An unexpected error costs it an attempt, and is logged.

        ``claimed`` is when it was asked for, by ``lease_guard.now``.
        """
        access = self._tokens.mint(record) if self._tokens is not None else None
        try:
            await self._attempt(record, access, claimed)
        except MataError as error:  # the database is gone: the lease ends by itself
            log.warning("job %s is left to its lease: %s", record.id, error.detail)
        except Exception as error:
            log.exception("job %s could not be run", record.id)
            with contextlib.suppress(MataError):
                if isinstance(error, OSError) and is_full(error):
                    await self._record_end(self._store.fail, record, FULL)
                else:
                    await self._record_end(self._store.died, record, "it could not be started")
        finally:
            if access is not None and self._tokens is not None:
                self._tokens.revoke(access)

    async def _attempt(self, record: Record, access: Access | None, claimed: float) -> None:
        kind, folder = self._kinds[record.kind], self._folder / record.id
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        function = f"{kind.run.__module__}:{kind.run.__qualname__}"
        assignment = Assignment(
            record.id, function, record.spec, str(folder), record.attempt, access, kind.settings
        )
        log.info("job %s (%s): attempt %d", record.id, record.kind, record.attempt)
        async with contextlib.AsyncExitStack() as stack:
            given = {"threads": kind.threads, "grace": kind.grace, "log": folder / "log"}
            starting = self._run_process(child.run, nice=NICE, **given)
            try:
                async with self._keep_lease(record, claimed) as renewed:
                    process = await stack.enter_async_context(starting)
            except (OutOfMemory, Unavailable) as error:  # not the job's fault: no attempt counts
                log.warning("job %s waits: %s", record.id, error.detail)
                await pause(self._stopping, WRITE_RETRY_SECONDS)
                await self._record_end(self._store.release, record)
                return
            except MataError as error:  # a node's: the next attempt may come to another one
                log.warning("job %s could not be started: %s", record.id, error.detail)
                await self._record_end(self._store.died, record, error.detail)
                return
            attempt = Attempt(
                self._store, record, kind, process, self._stopping, ReturnedFiles(folder)
            )
            self._attempts.add(attempt)
            if not self._transfers_files:  # else it works in a folder of its own
                lease = attempt.promise(renewed())
                assignment = msgspec.structs.replace(assignment, lease=lease)
            handing = asyncio.ensure_future(self._send_assignment(assignment, process))
            try:
                ended = await attempt.run(renewed())
            finally:
                self._attempts.discard(attempt)
                handing.cancel()  # it ended without all that it was to be given
                await asyncio.wait([handing])
            if not handing.cancelled():
                handing.result()
        await self._settle(record, attempt, ended, process)

    async def _send_assignment(self, assignment: Assignment, process: Child) -> None:
        """Send a process its assignment, and the input where it has not the job's folder.

        One that cannot be given it is killed: it would wait for ever.
        """
        folder, sent = Path(assignment.folder) / "input", None
        try:
            if self._transfers_files:
                await asyncio.to_thread(sweep, folder.parent)
                sent = await asyncio.to_thread(file_transfer.describe_files, folder)
                assignment = msgspec.structs.replace(assignment, folder="", given=sent)
            await process.send(assignment)
            reading = iter(()) if sent is None else file_transfer.read_pieces(folder, sent)
            while piece := await asyncio.to_thread(next, reading, b""):
                await process.feed(piece)
        except ConnectionError:
            pass  # its end tells more
        except Exception:
            process.signal(signal.SIGKILL)
            raise

    @contextlib.asynccontextmanager
    async def _keep_lease(
        self, record: Record, claimed: float
    ) -> AsyncIterator[Callable[[], float]]:
        """Keep the lease while a process starts, which may take a node's time to have room.

        Yield what returns when the last renewal began that succeeded, or the claim.
        """
        begun, renewed = asyncio.Event(), claimed

        async def renew() -> None:
            nonlocal renewed
            while not begun.is_set():
                await pause(begun, RENEW_SECONDS)
                at = lease_guard.now()
                with contextlib.suppress(MataError):
                    if await self._store.renew(record) is not None:
                        renewed = at

        renewing = asyncio.ensure_future(renew())
        try:
            yield lambda: renewed
        finally:
            begun.set()
            await renewing

    async def _settle(
        self, record: Record, attempt: Attempt, ended: Ended | None, process: Child
    ) -> None:
        """Write down how an attempt ended."""
        if self._transfers_files:
            ended = await self._place_returned_files(record, attempt, ended)
        if attempt.is_lease_lost:
            log.warning("job %s: the claim is no longer valid", record.id)
            return
        filled = await asyncio.to_thread(is_filled, self._folder)  # also for another attempt
        size, note = await asyncio.to_thread(size_of, self._folder / record.id), self._record_end
        if ended is not None and ended.how == "done":
            said = final_message(self._kinds[record.kind], ended.result)
            await note(self._store.finish, record, ended.result, message=said, bytes_used=size)
        elif ended is not None and ended.how == "failed":
            await note(self._store.fail, record, ended.error, bytes_used=size)
        elif attempt.is_cancelled:
            await note(self._store.stopped, record, ended and ended.result, bytes_used=size)
        elif self._stopping.is_set():
            await note(self._store.release, record)
        else:
            reason = ended.error if ended is not None else _exit_reason(await process.wait())
            log.warning("job %s died: %s", record.id, reason)
            of, why = (self._store.fail, FULL) if filled else (self._store.died, reason)
            await note(of, record, why, bytes_used=size)

    async def _place_returned_files(
        self, record: Record, attempt: Attempt, ended: Ended | None
    ) -> Ended | None:
        """Put what an attempt sent back in its place, if its claim still counts; return its end."""
        try:
            if (
                ended is not None
                and ended.how in {"done", "cancelled"}
                and not attempt.is_lease_lost
            ):
                attempt.is_lease_lost = not await self._record_end(self._store.renew, record)
                if not attempt.is_lease_lost:
                    return await asyncio.to_thread(_replace_output, attempt.returned_files, ended)
        finally:
            await asyncio.to_thread(attempt.returned_files.discard)
        return ended

    async def _record_end(
        self, note: Callable[..., Awaitable[Any]], *what: Any, **more: Any
    ) -> Any:
        """Write an end down, and again while the database takes nothing: the work is done."""
        return await _until_stored(self._stopping, note, *what, **more)


async def _until_stored(
    stopping: asyncio.Event, note: Callable[..., Awaitable[Any]], *what: Any, **more: Any
) -> Any:
    """Return what ``note`` answers, as soon as it does; why not yet is logged once.

    Raises ``MataError`` when the server stops meanwhile; then the next one does it anew.
    """
    hindrance = ""
    while True:
        try:
            return await note(*what, **more)
        except MataError as error:
            if stopping.is_set():
                raise
            if error.detail != hindrance:
                log.warning("job %s: its end waits: %s", what[0].id, error.detail)
            hindrance = error.detail
            await pause(stopping, RETRY_SECONDS)


def _replace_output(returned_files: ReturnedFiles, ended: Ended) -> Ended:
    """Put what a process has sent in its place; return how the job ended. Blocking."""
    try:
        returned_files.replace_output()
    except TransferError as error:
        return failed_transfer_end(error)
    return ended


def _exit_reason(status: int) -> str:
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"it ended with status {status} and no result"


def size_of(folder: Path) -> int:
    """Return the bytes of the files below a folder."""
    found = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            found += path.lstat().st_size if path.is_file() else 0
    return found
