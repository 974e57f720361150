"""Consumers' keys that are refused though the database could not take that yet."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from mataserver_database import Refusals
from mataserver_fleet.gateway.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mataserver_database import Refusal
    from mataserver_fleet.gateway.snapshot import Consumer

STORE_SECONDS = 5.0
"""How often a revocation that could not be stored is tried again."""


class RefusedKeys:
    """Hands snapshots on to ``follow``, without the keys that are refused."""

    def __init__(self, follow: Callable[[Snapshot], None]) -> None:
        self._follow = follow
        self._latest = Snapshot()
        log = logging.getLogger("mataserver.plugin.fleet")
        # Both may be asked for one key, and neither in place of the other: a removal that may not
        # be stored any more leaves the key revoked. It comes first, as it would be of a revision
        # that the other one changes.
        self._removals, self._revocations = Refusals(log), Refusals(log)
        self._added = asyncio.Event()

    def follow(self, snapshot: Snapshot) -> None:
        """Use another snapshot."""
        self._latest = snapshot
        refused = {*self._removals, *self._revocations}
        self._follow(snapshot.without(refused) if refused else snapshot)

    def consumer(self, identity: str) -> Consumer | None:
        """Return a consumer with a key by id or name, from memory."""
        known = self._latest.consumers.values()
        return next((each for each in known if identity in {str(each.id), each.name}), None)

    def refuse(self, digest: bytes, refusal: Refusal, *, removes: bool) -> None:
        """Refuse a key from now on; that is stored when it can be.

        removes: whether its consumer goes with it.
        """
        (self._removals if removes else self._revocations).add(digest, refusal)
        self.follow(self._latest)
        self._added.set()

    async def store(
        self, refresh: Callable[[], Awaitable[None]], is_current: Callable[[], bool]
    ) -> None:
        """Store revocations again and again, until cancelled.

        refresh:    has the database read anew, if it answers.
        is_current: whether it answered then.
        """
        while True:
            await self._added.wait()
            settled = [(each, await each.store()) for each in (self._removals, self._revocations)]
            if any(found for _, found in settled):
                # Another server may have stored it, which the latest snapshot need not show yet.
                await refresh()
                if is_current():
                    for refusals, found in settled:
                        refusals.drop(found)
                    self.follow(self._latest)
            if self._removals or self._revocations:
                await asyncio.sleep(STORE_SECONDS)
            else:
                self._added.clear()
