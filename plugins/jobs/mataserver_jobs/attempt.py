"""One attempt at a job, as its runner follows it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import MataError
from mataserver_jobs import lease_guard
from mataserver_jobs.file_transfer import TransferError
from mataserver_jobs.kinds import Ended, Message, Report
from mataserver_jobs.leases import LEASE_SECONDS

if TYPE_CHECKING:
    from mataserver import Child
    from mataserver_jobs.file_transfer import Parcel, Piece
    from mataserver_jobs.kinds import JobKind, LeaseRenewed
    from mataserver_jobs.record import Record
    from mataserver_jobs.returned_files import ReturnedFiles
    from mataserver_jobs.store import Store

RENEW_SECONDS = LEASE_SECONDS / 3
HOLD_SECONDS = LEASE_SECONDS - 1.0
"""After which time without a renewal a process is stopped: soon another server may run the job."""
MIN_POLL_SECONDS = 0.2
"""How often a job is looked at, at most, for a cancellation."""
REPORT_SECONDS = 0.5
"""How often progress is written down at most; its last state always is."""
DONE = "Done."

log = logging.getLogger("mataserver.plugin.jobs")


class Attempt:
    """One process of a job, from its first message to its last."""

    def __init__(
        self,
        store: Store,
        record: Record,
        kind: JobKind,
        process: Child,
        stopping: asyncio.Event,
        returned_files: ReturnedFiles,
    ) -> None:
        self.returned_files = returned_files
        self._store = store
        self._record = record
        self._kind = kind
        self._process = process
        self._stopping = stopping
        self._latest_report: Report | None = None
        self._finished = asyncio.Event()
        self._cancel_requested = asyncio.Event()
        self._wake_event = asyncio.Event()
        self._hold_timer: asyncio.TimerHandle | None = None
        self._held = asyncio.Event()
        self._promised: float | None = None
        self.is_cancelled = False
        self.is_lease_lost = False

    def wake(self) -> None:
        """Check now whether the job is to stop."""
        self._wake_event.set()

    def promise(self, renewed: float) -> LeaseRenewed | None:
        """Return for how long the process may go on, after a renewal of the lease.

        ``renewed`` is when that began, by ``lease_guard.now``: the loop's clock would not count the
        time of a machine that was suspended meanwhile. From then on the process is told of each
        renewal, and stops by itself without one. None where no other server may take the job while
        this one lives.
        """
        if not self._store.is_shared:
            return None
        told = lease_guard.renewed_until(renewed + HOLD_SECONDS)
        self._promised = told.until
        return told

    async def run(self, renewed: float) -> Ended | None:
        """Read the process's messages until its end; None when it died.

        ``renewed`` is when the last successful renewal of the lease began, by ``lease_guard.now``.

        What writes to the database beside it is asked to stop and never cancelled: a driver that is
        cancelled in mid-statement keeps its transaction open, and with it all others out.
        """
        self._hold_after(renewed)
        writing = [
            asyncio.ensure_future(each) for each in (self._renew(), self._report_periodically())
        ]
        stopping = asyncio.ensure_future(self._shut_down())
        try:
            message: Report | Ended | Parcel | Piece
            async for message in self._process.messages(Message):
                if isinstance(message, Ended):
                    return message
                if isinstance(message, Report):
                    self._latest_report = message
                else:
                    await self.returned_files.take(message, self._process)
            return None
        except (msgspec.DecodeError, ValueError, EOFError, ConnectionError):
            return None
        except TransferError as error:
            return failed_transfer_end(error)
        except OSError:  # of a full disk: the partial files take up the missing room
            await asyncio.to_thread(self.returned_files.discard)
            raise
        finally:
            self._finished.set()
            self._wake_event.set()
            if self._hold_timer is not None:
                self._hold_timer.cancel()  # and a renewal under way sets no other
            stopping.cancel()
            await asyncio.gather(*writing, stopping, return_exceptions=True)
            await self._store_report()

    async def _renew(self) -> None:
        """Keep the lease; notice a cancellation, and that the claim is no longer valid."""
        while not self._finished.is_set():
            self._wake_event.clear()
            begun = lease_guard.now()
            try:
                record = await self._store.renew(self._record)
            except MataError:  # the next time may succeed before the lease is over
                await pause(self._finished, 1.0)
                continue
            if record is None:
                self.is_lease_lost = True
                self._process.signal(signal.SIGKILL)
                return
            self._extend(begun)
            if record.cancel and not self.is_cancelled:
                self.is_cancelled = True
                self._cancel_requested.set()
            await pause(self._finished, MIN_POLL_SECONDS)  # others' news are no hurry
            await pause(self._wake_event, RENEW_SECONDS)

    def _extend(self, renewed: float) -> None:
        """Let the process go on, also one that stopped itself, of which nothing is known here."""
        if not self._hold_after(renewed):
            return
        stopped = self._held.is_set()
        if (promised := self._promised) is not None:
            told = self.promise(renewed)
            with contextlib.suppress(ConnectionError):  # its end tells more
                self._process.write(msgspec.json.encode(told) + b"\n")
            stopped |= promised <= lease_guard.now()
        if stopped:
            self._held.clear()
            log.warning("job %s goes on: its lease is renewed", self._record.id)
        if stopped or promised is not None:  # it may just now stop itself, before it reads this
            self._process.signal(signal.SIGCONT)

    def _hold_after(self, renewed: float) -> bool:
        """Let the process be stopped once the lease that was renewed then may be another's.

        Return whether it may go on until then. A server that is cut off from the database alone
        still has the job's folder, in which the process of another server would work at the same
        time.
        """
        if self._finished.is_set() or self._process.has_ended or not self._store.is_shared:
            return False
        if self._hold_timer is not None:
            self._hold_timer.cancel()
        left = renewed + HOLD_SECONDS - lease_guard.now()
        if left <= 0:  # it took that long
            self._hold()
            return False
        self._hold_timer = asyncio.get_running_loop().call_later(left, self._hold)
        return True

    def _hold(self) -> None:
        """Stop the process where it is; not one that has ended, whose id may be another's."""
        if self._held.is_set() or self._process.has_ended:
            return
        self._held.set()
        log.warning("job %s is stopped until its lease can be renewed", self._record.id)
        self._process.signal(signal.SIGSTOP)

    async def _report_periodically(self) -> None:
        while not self._finished.is_set():
            await pause(self._finished, REPORT_SECONDS)
            await self._store_report()

    async def _store_report(self) -> None:
        report, self._latest_report = self._latest_report, None
        if report is None:
            return
        begin, end = self._kind.stages.get(report.stage, (0.0, 100.0))
        part = min(1.0, max(0.0, report.done / report.total)) if report.total > 0 else 0.0
        with contextlib.suppress(MataError):  # a database that is busy misses a report
            progress = begin + (end - begin) * part
            await self._store.report(self._record, report.stage, progress, report.message)

    async def _shut_down(self) -> None:
        """Stop the process once the job is cancelled or the server shuts down."""
        waits = [
            asyncio.ensure_future(each.wait()) for each in (self._cancel_requested, self._stopping)
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        await self._stop()

    async def _stop(self) -> None:
        """Ask the process to stop; one that does not, or is held and so cannot, is killed."""
        if not self._held.is_set():
            self._process.signal(signal.SIGTERM)
            await pause(self._held, self._kind.grace)
        self._process.signal(signal.SIGKILL)


def failed_transfer_end(error: TransferError) -> Ended:
    """Return how a job ended whose files came otherwise than they were made."""
    return Ended("broken", error=f"its result arrived damaged: {error}")


def final_message(kind: JobKind, result: Any) -> str:
    """Return the sentence that ends a job which is done.

    A kind that fails to find one costs no attempt: the work is done, and would be done again.
    """
    if kind.told is not None:
        try:
            message: object = kind.told(result)
        except Exception:
            log.exception("jobs of the kind %s have no last word", kind.name)
        else:
            if isinstance(message, str):
                return message
    return DONE


async def pause(event: asyncio.Event, seconds: float) -> None:
    """Wait, but not for longer than until an event."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
