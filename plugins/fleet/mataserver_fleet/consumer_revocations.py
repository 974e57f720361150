"""Revokes consumers' keys, and removes consumers, also where the database cannot take that now."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from mataserver import NotFound, Unavailable
from mataserver_database import Refusal, finish
from mataserver_fleet.consumers import Consumers
from mataserver_fleet.permissions import check_owns
from mataserver_fleet.store import check_revision, find
from mataserver_fleet.tables import CONSUMERS

if TYPE_CHECKING:
    from mataserver import Principal
    from mataserver_fleet.gateway.refused_keys import RefusedKeys
    from mataserver_fleet.pages import Tags
    from mataserver_fleet.store import Store


class _Known(NamedTuple):
    """A consumer with a key; ``expected`` are the revisions to hold it against later."""

    id: int
    name: str
    digest: bytes
    expected: Tags | None


class ConsumerRevocations:
    """What takes a consumer's key away.

    Where the database does not take it, this raises, the gateway of this server refuses the key all
    the same, and it is stored once that can be. The log tells what became of it.
    """

    def __init__(self, store: Store, refused: RefusedKeys) -> None:
        self._store = store
        self._refused = refused
        self._consumers = Consumers(store)

    async def revoke(
        self, identity: str, principal: Principal, expected: Tags | None
    ) -> sa.RowMapping:
        """Revoke a consumer's key; return the consumer. Raises as ``Consumers.revoke``."""
        try:
            return await self._consumers.revoke(identity, principal, expected)
        except Unavailable as error:
            raise await self._refuse(error, identity, principal, expected) from None

    async def remove(
        self, identity: str, principal: Principal, expected: Tags | None
    ) -> sa.RowMapping:
        """Remove a consumer, and return it. Raises as ``Consumers.remove``."""
        try:
            return await self._consumers.remove(identity, expected)
        except Unavailable as error:
            told = await self._refuse(error, identity, principal, expected, removes=True)
            raise told from None

    async def _refuse(
        self,
        error: Unavailable,
        identity: str,
        principal: Principal,
        expected: Tags | None,
        *,
        removes: bool = False,
    ) -> Unavailable:
        """Refuse the key of a consumer; return what to answer. Raises what does not permit it."""
        known = await self._find(identity, principal, expected)
        if known is None:
            return error

        async def store() -> None:
            await (self._remove if removes else self._forget)(known)

        asked_by = f"{principal.name} ({principal.id})"
        refusal = Refusal(f"the key of {known.name}", store, asked_by, error.detail)
        self._refused.refuse(known.digest, refusal, removes=removes)
        return refusal.error(error)

    async def _find(
        self, identity: str, principal: Principal, expected: Tags | None
    ) -> _Known | None:
        """Return a consumer with a key, whom a principal may change; None for who is not known.

        A database that does not answer cannot tell whose a consumer is, nor its revision: then it
        is known from memory, to who may change all.
        """
        try:
            async with self._store.read() as connection:
                row = await find(connection, CONSUMERS, identity, "Consumer")
                await check_owns(connection, principal, row["id"])
                check_revision(row, expected)
        except Unavailable:
            known = self._refused.consumer(identity)
            if known is None or not principal.may("fleet:write"):
                return None
            return _Known(known.id, known.name, known.digest, expected)
        if row["digest"] is None:
            return None
        return _Known(row["id"], row["name"], bytes.fromhex(row["digest"]), None)

    async def _forget(self, known: _Known) -> None:
        """Revoke the key, unless the consumer has another one by now."""
        async with self._store.change() as connection:
            row = await find(connection, CONSUMERS, str(known.id), "Consumer", lock=True)
            if row["digest"] != known.digest.hex():
                raise NotFound("The key was replaced")
            check_revision(row, known.expected)
            change = sa.update(CONSUMERS).where(CONSUMERS.c.id == row["id"])
            await connection.execute(change.values(digest=None, revision=row["revision"] + 1))

    async def _remove(self, known: _Known) -> None:
        await finish(self._consumers.remove(str(known.id), known.expected))
