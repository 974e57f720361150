"""Unloads at one Triton the models that were removed while it could not unload them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from mataserver import MataError
from mataserver_database import finish
from mataserver_fleet.leftovers import forget, names_at
from mataserver_fleet.reconciler import PARAMETER
from mataserver_fleet.triton_answers import Config, TritonError, decode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import Context
    from mataserver_fleet.store import Store
    from mataserver_fleet.triton_client import TritonClient


class TritonLeftovers:
    """Looks after what is left at a Triton, whose id is ``triton``."""

    def __init__(self, ctx: Context, store: Store, triton: int, client: TritonClient) -> None:
        self._ctx = ctx
        self._store = store
        self._triton = triton
        self._client = client
        self._work: asyncio.Task[None] | None = None
        self._told = ""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What goes on."""
        return [] if self._work is None else [self._work]

    def lock(self, name: str) -> asyncio.Lock:
        """Return what is held while a model of a name is unloaded as a leftover, or reconciled.

        A load that is sent during the unload could be answered before it, and be undone by it.
        """
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    async def look(self) -> None:
        """Begin to unload what is left, unless that goes on already.

        It is not waited for: a Triton that still loads a model unloads it after that.
        """
        if self._work is not None and not self._work.done():
            return
        names = await finish(names_at(self._store, self._triton))
        if names:
            self._work = asyncio.get_running_loop().create_task(self._clear(names))

    async def _clear(self, names: Iterable[str]) -> None:
        try:
            for name in names:
                async with self.lock(name):
                    # Again, since each unload may take minutes: one is loaded anew by now.
                    if name in await finish(names_at(self._store, self._triton)):
                        await self._unload(name)
                        await finish(forget(self._store, self._triton, name))
            self._told = ""
        except MataError as error:  # it is away, or the database is: a later look tries again
            if error.detail != self._told:
                place, self._told = self._client.address.name, error.detail
                self._ctx.log.warning("a removed model stays at %s: %s", place, error.detail)

    async def _unload(self, name: str) -> None:
        """Unload a removed model, unless somebody else has loaded one of its name."""
        config = await self._client.config(name)  # None of one that is still being loaded
        if config is not None and PARAMETER not in decode(config, Config).parameters:
            return
        try:
            await self._client.unload(name)
        except TritonError as error:
            if config is not None or not error.answered:
                raise
            return  # it unloads nothing at all, and has not the model
        place = self._client.address.name
        self._ctx.log.info("%s, which was removed, is unloaded at %s", name, place)
