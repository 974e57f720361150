"""Which Tritons this server looks after: all, where it holds the lease, else none."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mataserver import MataError
from mataserver_database import finish
from mataserver_fleet.leadership import LEASE_SECONDS, RENEW_SECONDS, LeaderLease
from mataserver_fleet.shared_path import SharedPaths
from mataserver_fleet.store import pause
from mataserver_fleet.tables import COUNTS, TRITONS
from mataserver_fleet.triton_client import Address, TritonClient
from mataserver_fleet.triton_metrics import TritonMetrics
from mataserver_fleet.triton_watch import TritonWatch

if TYPE_CHECKING:
    from mataserver import Context
    from mataserver_fleet.files import FileStore
    from mataserver_fleet.store import ChangeSignal, Store


METRICS_SECONDS = 3.0
"""Maximum age of the metrics' values."""
IDLE_SECONDS = 5.0
"""How often a server looks for the first Triton, of which it may not have been notified."""


class TritonSupervisor:
    """Watches every Triton, where this server is the one that does."""

    def __init__(self, ctx: Context, store: Store, files: FileStore, changes: ChangeSignal) -> None:
        self._ctx = ctx
        self._store = store
        self._files = files
        self._changes = changes
        self._lease = LeaderLease(store)
        self._shared = SharedPaths(ctx.settings.shared_folders)
        self._watches: dict[int, TritonWatch] = {}
        self._upload_lock = asyncio.Lock()
        self._renew_at = 0.0
        self._metrics = TritonMetrics()
        self._metrics_at = 0.0
        self._database_error = ""
        self._is_leader = False
        self._lapse: asyncio.TimerHandle | None = None
        self._lapsed: asyncio.Task[None] | None = None
        self._is_idle = True
        self._version: str | None = None
        ctx.metrics.register(self._metrics)

    async def run(self) -> None:
        """Watch until it is cancelled."""
        loop = asyncio.get_running_loop()
        with self._changes.listen() as changed:
            while True:
                try:
                    if self._is_idle or loop.time() >= self._renew_at:
                        await self._renew(loop.time())
                    await self._update_watches()
                    await self._read_metrics(loop.time())
                except MataError as error:  # the database is away: there is no leader
                    if error.detail != self._database_error:
                        self._ctx.log.warning("the fleet is not managed now: %s", error.detail)
                    self._database_error = error.detail
                    await self._stop_leading()
                except Exception:  # such as a shortage: another server leads before this goes on
                    await self._stop_leading()
                    raise
                await pause(changed, max(0.0, self._renew_at - loop.time()))

    async def _renew(self, now: float) -> None:
        """Take or renew the lease; nobody holds it, and nothing is written, of an empty fleet."""
        self._renew_at = now + RENEW_SECONDS
        if not self._watches and (self._is_leader or self._is_idle):
            self._is_idle = await finish(self._is_empty())
        if not self._is_idle:
            is_leader = await finish(self._lease.acquire())
            if self._lapsed is not None:  # what was watched before ends before it is watched anew
                await asyncio.shield(self._lapsed)
                self._lapsed = None
            self._lead(now, is_leader=is_leader)
        else:
            self._renew_at = now + IDLE_SECONDS
            if self._is_leader:
                self._is_leader = False
                await finish(self._lease.release())
        self._database_error = ""

    def _lead(self, begun: float, *, is_leader: bool) -> None:
        """Lead, or not, for as long as a lease lasts whose renewal began then.

        A statement of a database that hangs takes longer, and another server leads meanwhile.
        """
        loop = asyncio.get_running_loop()
        if self._lapse is not None:
            self._lapse.cancel()
        if not self._is_leader:
            self._version = None  # nothing is watched: look whatever was seen before
        until = begun + LEASE_SECONDS
        self._is_leader = is_leader and loop.time() < until
        self._lapse = loop.call_at(until, self._end_lapsed) if self._is_leader else None
        if is_leader and not self._is_leader:
            self._renew_at = 0.0  # it came too late to tell

    def _end_lapsed(self) -> None:
        """Stop leading while ``run`` waits for the database."""
        self._is_leader, self._version = False, None
        self._lapsed = asyncio.get_running_loop().create_task(self._watch_only({}))

    async def _stop_leading(self) -> None:
        """Watch nothing until the lease is renewed."""
        self._is_leader, self._version = False, None
        await self._watch_only({})

    async def _is_empty(self) -> bool:
        """Whether there is no Triton, and nothing that one has counted."""
        found = sa.select(sa.or_(*(sa.exists(sa.select(each)) for each in (TRITONS, COUNTS))))
        async with self._store.read() as connection:
            return not await connection.scalar(found)

    async def stop(self) -> None:
        """Stop watching, and release the lease to another server."""
        if self._lapse is not None:
            self._lapse.cancel()
        await asyncio.gather(*filter(None, [self._lapsed]), return_exceptions=True)
        await self._watch_only({})
        with contextlib.suppress(MataError):
            await finish(self._lease.release())

    async def _read_metrics(self, now: float) -> None:
        """Refresh the metrics' values when they are too old."""
        if not self._is_leader:
            self._metrics.forget()
        elif now >= self._metrics_at:
            self._metrics_at = now + METRICS_SECONDS
            await finish(self._metrics.read(self._store))

    async def _update_watches(self) -> None:
        """Watch what there is now, and have it look at what is wanted now.

        A database's own notifications are of any change; the version shows the fleet's own.
        """
        if not self._is_leader:
            await self._stop_leading()
            return
        version = await finish(self._store.version()) or ""
        if version == self._version and not await self._drop_failed():
            return
        self._version = version
        await self._watch_only(await finish(self._addresses()))
        for watch in self._watches.values():
            watch.wake()

    async def _drop_failed(self) -> bool:
        """Give up watches that failed; return whether there were any."""
        failed = {key: watch for key, watch in self._watches.items() if watch.failure is not None}
        for key, watch in failed.items():
            name = watch.address.name
            self._ctx.log.error("watching %s failed", name, exc_info=watch.failure)
            if self._watches.get(key) is watch:
                await self._watches.pop(key).stop()
        return bool(failed)

    async def _addresses(self) -> dict[int, Address]:
        async with self._store.read() as connection:
            rows = (await connection.execute(sa.select(TRITONS))).mappings().all()
        return {
            row["id"]: Address(
                row["name"],
                row["host"],
                row["port"],
                row["metrics_port"],
                row["grpc_port"],
                row["path"],
            )
            for row in rows
        }

    async def _watch_only(self, addresses: dict[int, Address]) -> None:
        """Watch these Tritons and no others."""
        ended = [key for key, watch in self._watches.items() if addresses.get(key) != watch.address]
        await asyncio.gather(*(self._watches.pop(key).stop() for key in ended))
        for key, address in addresses.items() if self._is_leader else ():
            if key not in self._watches:
                shared = self._shared.get(address.path)
                client = TritonClient(self._ctx, address, self._upload_lock)
                made = TritonWatch(
                    self._ctx, self._store, self._files, key, client, shared, lease=self._lease
                )
                self._watches[key] = made
