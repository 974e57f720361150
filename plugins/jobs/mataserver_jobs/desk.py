"""What the jobs' routes and other plugins do with jobs: submit, restart, remove, watch."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import Conflict, InvalidParams, MataError, NotFound, describe_error
from mataserver_database import finish
from mataserver_jobs import durable
from mataserver_jobs.disk import FULL
from mataserver_jobs.followed_jobs import FollowedJobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from msgspec import Struct

    from mataserver_jobs.kinds import JobKind
    from mataserver_jobs.record import Record
    from mataserver_jobs.storage import Storage
    from mataserver_jobs.store import Store


@dataclass(slots=True)
class Draft:
    """A job that is being given what it works on: files are written to ``input``."""

    id: str
    input: Path
    submitted: bool = False


class Desk:
    """Accepts and removes jobs of ``kinds``. ``wake`` notifies the runner of work."""

    def __init__(
        self,
        store: Store,
        storage: Storage,
        kinds: Mapping[str, JobKind],
        wake: Callable[[], None],
        budget: int,
    ) -> None:
        self.store = store
        self.followed = FollowedJobs(store)
        self.storage = storage
        self._kinds = kinds
        self._wake = wake
        self._budget = budget
        self._restarting = asyncio.Lock()
        self._watchers: set[asyncio.Event] = set()
        self._closing = asyncio.Event()

    def kind(self, name: str) -> JobKind:
        """Return a kind. Raises ``NotFound``."""
        if name not in self._kinds:
            known = ", ".join(sorted(self._kinds))
            raise NotFound(f"There is no kind of jobs named {name[:64]!r}; there are: {known}")
        return self._kinds[name]

    def shown(self, record: Record) -> Record:
        """Return a job as the API shows it: one that waits for a plugin says so."""
        if record.state != "queued" or record.kind in self._kinds:
            return record
        told = (
            f"It waits for a plugin: this server has none that runs jobs of the kind {record.kind}."
        )
        return msgspec.structs.replace(record, message=told)

    @contextlib.asynccontextmanager
    async def draft(self) -> AsyncIterator[Draft]:
        """Give the draft of a job; its folder is removed unless it is submitted.

        Raises ``OutOfMemory`` (507) when the disk is nearly full.
        """
        job = str(uuid.uuid4())
        draft: Draft | None = None
        held = contextlib.ExitStack()  # else ``sweep`` would take it for a dead server's
        try:
            folder = await finish(asyncio.to_thread(self.storage.make, job, held))
            draft = Draft(job, folder)
            yield draft
        finally:
            held.close()
            if draft is None or not draft.submitted:
                await finish(asyncio.to_thread(self.storage.remove, job))

    async def submit(
        self,
        draft: Draft,
        kind: str,
        owner: str,
        spec: Struct,
        *,
        key: str | None = None,
        size: int = 0,
    ) -> Record:
        """Queue a draft. ``size`` is in bytes what was uploaded, ``key`` an idempotency key.

        The job of an earlier request with that key is returned in its place. Raises ``NotFound``
        for an unknown kind, ``Conflict`` as ``Store.submit``, and what the kind's ``check`` does. A
        client that leaves then has its job taken in, with its files, or not at all.
        """
        of = self.kind(kind)
        if of.check is not None:
            of.check(spec)
        named, plain = of.name, msgspec.to_builtins(spec)

        async def submit() -> Record:
            # First: a power failure would leave the job, which was answered, without its files.
            await asyncio.to_thread(durable.sync_all, self.storage.folder(draft.id))
            record = await self.store.submit(
                named, owner, plain, key=key, id=draft.id, bytes_used=size
            )
            draft.submitted = record.id == draft.id
            return record

        record = await finish(submit())
        self._wake()
        return record

    async def restart(self, record: Record, options: Mapping[str, Any]) -> Record:
        """Queue an ended job once more, with some options changed; what it was given stays.

        Raises ``InvalidParams`` for options that its kind does not take, what the kind's ``check``
        does, ``Conflict`` for a job that has not ended, ``OutOfMemory`` when the disk is nearly
        full.
        """
        kind = self.kind(record.kind)
        if kept := kind.fixed & options.keys():
            raise InvalidParams(f"spec: {min(kept)}: a restart cannot change the job's input")
        if kind.options is not None:
            _convert(
                {key: value for key, value in options.items() if value is not None}, kind.options
            )
        spec = _convert({**record.spec, **options}, kind.spec)
        if kind.check is not None:
            kind.check(spec)
        await asyncio.to_thread(self.storage.check_room)
        restarted = await finish(self._reset_and_queue(record, msgspec.to_builtins(spec)))
        self._wake()
        return restarted

    async def _reset_and_queue(self, record: Record, spec: Any) -> Record:
        """Remove what a job made, and queue it: both, also when its client leaves."""
        async with self._restarting:
            record = await self.store.get(record.id)
            if not record.ended:
                raise Conflict(f"The job has not ended: {record.state}")
            resumes = self.kind(record.kind).resumes and record.error in {None, FULL}
            made = ("output",) if resumes else ("output", "work")
            await asyncio.to_thread(self.storage.reset, record.id, made)
            return await self.store.restart(record.id, spec)

    async def remove(self, job: str) -> None:
        """Remove an ended job with its files. Raises ``NotFound``, ``Conflict``."""
        async with self._restarting:
            await self.store.remove(job)
            await asyncio.to_thread(self.storage.remove, job)

    async def sweep(self) -> int:
        """Remove the jobs whose time is over, those over the budget, and folders of none.

        Returns how many jobs were removed.
        """
        going = dict.fromkeys(
            [*await self.store.expired(), *await self.store.over_budget(self._budget)]
        )
        for job in going:
            with contextlib.suppress(NotFound, Conflict):  # another server, or a restart, was first
                await self.remove(job)
        old = await asyncio.to_thread(self.storage.sweep)
        for job in set(old) - (await self.store.known(old) if old else set()):
            await asyncio.to_thread(self.storage.remove, job)
        return len(going)

    async def sweep_periodically(self, pause: float) -> None:
        """Sweep now and then, until ``close``."""
        while not self._closing.is_set():
            with contextlib.suppress(MataError):  # a database that is busy: the next time
                await self.sweep()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._closing.wait()

    def close(self) -> None:
        """Stop sweeping."""
        self._closing.set()

    # what changes

    def changed(self) -> None:
        """Note that jobs may have changed."""
        for event in self._watchers:
            event.set()

    @contextlib.contextmanager
    def watching(self) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever jobs may have changed."""
        event = asyncio.Event()
        self._watchers.add(event)
        try:
            yield event
        finally:
            self._watchers.discard(event)


def _convert(options: Mapping[str, Any], wanted: type[Struct]) -> Struct:
    """Return what a restart asks. Raises ``InvalidParams``."""
    try:
        return msgspec.convert(options, wanted)
    except msgspec.ValidationError as error:
        raise InvalidParams(f"spec: {describe_error(error, wanted)}") from None
