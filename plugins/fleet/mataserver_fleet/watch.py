"""Looks at one Triton, again and again, and mends what is not as it is wanted."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mataserver import AddressRefused, MataError
from mataserver_database import finish
from mataserver_fleet.counts import Counts
from mataserver_fleet.placements import Placements
from mataserver_fleet.reconciling import Reconciling
from mataserver_fleet.resting import Rests
from mataserver_fleet.store import pause, text
from mataserver_fleet.tables import TRITONS
from mataserver_fleet.triton_answers import TritonError
from mataserver_fleet.tritons import Seen, ServedModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver import Context
    from mataserver_fleet.files import Files
    from mataserver_fleet.placements import Wanted
    from mataserver_fleet.shared_path import SharedPath
    from mataserver_fleet.store import Store
    from mataserver_fleet.triton_answers import ModelCount
    from mataserver_fleet.triton_client import TritonClient
    from mataserver_fleet.tritons import Gpu

NOTE_SECONDS = 5.0
"""How often the time of a Triton's last answer is kept while nothing else changes."""
GPU_LOOKS = DEEP_LOOKS = 10
"""Every how many looks GPUs' figures are asked, and whether models are those that were sent."""
HURRY, HURRY_PART = 0.1, 20
"""How soon one that is away is looked at again: at first, and then after what part of its absence.

Most come back within seconds, and what they had is missed until they are looked at.
"""


class Watch:
    """Watches a Triton from now on."""

    def __init__(
        self,
        ctx: Context,
        store: Store,
        files: Files,
        key: int,
        client: TritonClient,
        shared: SharedPath | None,
    ) -> None:
        self.address = client.address
        self._ctx = ctx
        self._store = store
        self._key = key
        self._client = client
        self._placements = Placements(store)
        limit = ctx.settings.load_timeout
        self._reconciling = Reconciling(self._placements, files, self._client, limit, shared)
        self._counts = Counts(store)
        self._changed = asyncio.Event()
        self._mending: dict[int, asyncio.Task[None]] = {}
        self._rests = Rests(store.clock)
        self._noted: tuple[str, str, Seen | None] = ("", "", None)
        self._noted_at = 0.0
        self._told: Sequence[ModelCount] = ()
        self._shape: list[tuple[str, int]] | None = None
        self._looks = 0
        self._gpus: list[Gpu] = []
        self._figuring: asyncio.Task[None] | None = None
        self._away_since: float | None = None
        self._running = asyncio.get_running_loop().create_task(self._run())

    def wake(self) -> None:
        """Look at what is wanted now."""
        self._changed.set()

    @property
    def failure(self) -> BaseException | None:
        """What ended it by itself, None while it goes on."""
        return self._running.exception() if self._running.done() else None

    async def stop(self) -> None:
        """End; what a statement has begun goes on to its end by ``finish``."""
        asking = [] if self._figuring is None else [self._figuring]
        tasks = [self._running, *self._mending.values(), *asking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        told = ""
        while True:
            try:
                await self._look()
                told = ""
            except MataError as error:  # the database is away
                if error.detail != told:  # once, and not with every look
                    name, told = self.address.name, error.detail
                    self._ctx.log.warning("%s is not looked after: %s", name, told)
            await pause(self._changed, self._patience())

    def _patience(self) -> float:
        """Return the seconds until the next look: fewer where it has been away for a short time."""
        probe, now = float(self._ctx.settings.probe), self._store.clock()
        if self._noted[0] == "ready":
            self._away_since = None
            return probe
        self._away_since = now if self._away_since is None else self._away_since
        return min(probe, max(HURRY, (now - self._away_since) / HURRY_PART))

    async def _look(self) -> None:
        try:
            await self._asked()
        except AddressRefused as error:
            await self._note("offline", error.detail, None)
        except TritonError as error:
            await self._note("unready" if error.answered else "offline", error.detail, None)

    async def _asked(self) -> None:
        """Ask a Triton how it is, note it, and begin to mend. Raises ``TritonError``.

        What it lost is noted before it is noted as ready: nobody shall see it so in between. Its
        metrics are not waited for: they may hang, and what it lost is mended meanwhile.
        """
        await self._client.check_live()
        described = await self._client.describe()
        counts = sorted(await self._client.counts())
        if self._noted[0] != "ready":
            self._rests.came_back()
        wrong = await self._wrong(counts)
        for wanted, serving in wrong:
            task = asyncio.get_running_loop().create_task(self._mended(wanted, serving))
            self._mending[wanted.model] = task
        if counts != self._told:
            await finish(self._counts.note(self._key, counts, set(self._mending)))
            self._told = () if self._mending else counts
        if self._looks % GPU_LOOKS == 0 and (self._figuring is None or self._figuring.done()):
            self._figuring = asyncio.get_running_loop().create_task(self._figure())
        self._looks += 1
        models = [ServedModel(each.name, str(each.number)) for each in counts]
        await self._note("ready", "", Seen(described.version, models, self._gpus))

    async def _figure(self) -> None:
        """Keep the figures of its GPUs for the next look; none while its metrics do not answer."""
        try:
            self._gpus = await self._client.gpus()
        except MataError as error:
            self._gpus = []
            self._ctx.log.info("%s has no metrics now: %s", self.address.name, error.detail)

    async def _wrong(self, counts: Sequence[ModelCount]) -> list[tuple[Wanted, tuple[int, ...]]]:
        """Return the placements that are not as they are wanted, with what is served of each.

        Whether a model is still what was sent is asked now and then, and whenever something at
        the Triton changed: for many models it is many questions.
        """
        shape = [(each.name, each.number) for each in counts]
        deep = shape != self._shape or self._looks % DEEP_LOOKS == 0
        found: list[tuple[Wanted, tuple[int, ...]]] = []
        lost: list[tuple[Wanted, tuple[int, ...]]] = []
        for wanted in await finish(self._placements.at(self._key)):
            waits = self._rests.holds(wanted.model, wanted.generation)
            if wanted.model in self._mending or waits:
                continue
            serving = tuple(sorted({each.number for each in counts if each.name == wanted.name}))
            if await self._reconciling.settled(wanted, serving, deep=deep):
                continue
            if wanted.done == wanted.generation and wanted.state == "ready":
                lost.append((wanted, serving))
            found.append((wanted, serving))
        if lost:
            await finish(self._placements.lost(self._key, lost))
        self._shape = shape  # not before all of them were asked: the next look asks again
        return found

    async def _note(self, state: str, reason: str, seen: Seen | None) -> None:
        """Keep how it is: at once where that changed, and now and then that it answered."""
        now, told = self._store.clock(), (state, reason, seen)
        if told == self._noted and now - self._noted_at < NOTE_SECONDS:
            return
        values: dict[str, Any] = {"state": state, "reason": reason}
        values |= {"seen": text(seen)} if seen is not None else {}
        values |= {"answered_at": now} if state != "offline" else {}
        changed = self._noted[:2] != told[:2]
        await finish(self._keep(values, changed=changed))
        self._noted, self._noted_at = told, now
        if changed:
            self._ctx.log.info("the Triton %s is %s. %s", self.address.name, state, reason)

    async def _keep(self, values: dict[str, Any], *, changed: bool) -> None:
        change = sa.update(TRITONS).where(TRITONS.c.id == self._key).values(**values)
        async with self._store.database.begin() as connection:
            await connection.execute(change)
            if changed:
                await self._store.touch(connection)

    async def _mended(self, wanted: Wanted, serving: tuple[int, ...]) -> None:
        try:
            outcome = await self._reconciling.mend(wanted, serving)
            if outcome.anew:
                await finish(self._counts.begin_anew(self._key, wanted.model))
            if outcome.state == "failed":
                self._rests.begin(wanted.model, wanted.generation, broken=False)
            else:
                self._rests.end(wanted.model)
            await finish(self._placements.note(wanted.model, self._key, outcome))
            said = outcome.reason.partition("\n")[0]
            place = (wanted.name, self.address.name)
            self._ctx.log.info("%s at %s is %s. %s", *place, outcome.state, said)
            self._changed.set()
        except MataError as error:  # it is away, or the database is: the next look tells
            reason = error.detail
            if isinstance(error, TritonError):
                seconds = self._rests.begin(wanted.model, wanted.generation, broken=True)
                reason += f"; it is tried again in {seconds:g} s" if seconds else ""
            self._ctx.log.warning("%s at %s: %s", wanted.name, self.address.name, reason)
            with contextlib.suppress(MataError):
                await finish(self._placements.explain(wanted, self._key, reason))
        finally:
            self._mending.pop(wanted.model, None)
            self._shape = None  # whatever was done to it meanwhile was not looked at
