"""Consumers' keys that are refused though the database could not take that yet."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mataserver_database import Refusals
from mataserver_fleet.gateway.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_database import Refusal
    from mataserver_fleet.gateway.snapshot import Consumer

STORE_SECONDS = 5.0
"""How often a revocation that could not be stored is tried again."""


class RefusedKeys:
    """Hands snapshots on to ``follow``, without the keys that are refused."""

    def __init__(self, follow: Callable[[Snapshot], None]) -> None:
        self._follow = follow
        self._latest = Snapshot()
        self._refusals = Refusals(logging.getLogger("mataserver.plugin.fleet"))
        self._added = asyncio.Event()

    def follow(self, snapshot: Snapshot) -> None:
        """Use another snapshot."""
        self._latest = snapshot
        self._follow(snapshot.without(self._refusals) if self._refusals else snapshot)

    def consumer(self, identity: str) -> Consumer | None:
        """Return a consumer with a key by id or name, from memory."""
        known = self._latest.consumers.values()
        return next((each for each in known if identity in {str(each.id), each.name}), None)

    def refuse(self, digest: bytes, refusal: Refusal) -> None:
        """Refuse a key from now on; its revocation is stored when that can be."""
        self._refusals.add(digest, refusal)
        self.follow(self._latest)
        self._added.set()

    async def store(self, is_current: Callable[[], bool]) -> None:
        """Store revocations again and again, until cancelled.

        is_current: whether the latest snapshot shows what has been stored.
        """
        while True:
            await self._added.wait()
            settled = await self._refusals.store()
            if settled and is_current():
                self._refusals.drop(settled)
                self.follow(self._latest)
            if self._refusals:
                await asyncio.sleep(STORE_SECONDS)
            else:
                self._added.clear()
