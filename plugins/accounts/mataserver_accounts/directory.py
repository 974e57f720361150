"""The accounts as the server knows them: in the database, and in memory for every request.

A change is in force in this process when the request that made it is answered, and in others as
soon as the database tells them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, TypeVar

from mataserver import MataError, Unavailable
from mataserver_accounts.passwords import Passwords
from mataserver_accounts.snapshot import Rates, Snapshot
from mataserver_accounts.store import Accounts
from mataserver_accounts.tables import CHANNEL, SCHEMA
from mataserver_accounts.tokens import Tokens
from mataserver_database import finish

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Coroutine

    from mataserver import Principal
    from mataserver_accounts.options import Settings
    from mataserver_database import Database

RETRY_SECONDS = 1.0

T = TypeVar("T")


class Directory:
    """Who may ask. ``sign_out`` is told the ids of principals that count no more."""

    def __init__(
        self, settings: Settings, log: logging.Logger, sign_out: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._log = log
        self._sign_out = sign_out
        self._turn = asyncio.Lock()
        self._stale = asyncio.Event()
        self._leaving = asyncio.Event()
        self._running: set[asyncio.Task[Any]] = set()
        self._accounts: Accounts | None = None
        self._tokens: Tokens | None = None
        self._snapshot: Snapshot | None = None
        self._rates = Rates(time.time)

    @property
    def accounts(self) -> Accounts:
        """The accounts in the database. Raises ``Unavailable`` before the start."""
        return _open(self._accounts)

    @property
    def tokens(self) -> Tokens:
        """What makes and reads tokens. Raises ``Unavailable`` before the start."""
        return _open(self._tokens)

    def owner_of(self, secret: str) -> Principal | None:
        """Return whose a key or token is, from memory; see ``Snapshot.owner_of``."""
        return _open(self._snapshot).owner_of(secret)

    async def start(self, database: Database) -> None:
        """Migrate, make the first administrator, and read what there is. Raises ``MataError``."""
        await database.migrate(SCHEMA)
        accounts = Accounts(database, Passwords())
        await accounts.bootstrap(self._settings.username, self._settings.password_hash)
        secret = self._settings.jwt_secret or await accounts.secret("jwt")
        self._tokens = Tokens(secret, self._settings.token_seconds)
        self._accounts = accounts
        await accounts.secret("version")
        await self.refresh()
        database.watch(CHANNEL, self._stale.set)
        self._spawn(self._keep())

    async def stop(self) -> None:
        """Wait for what is being done."""
        self._leaving.set()
        self._stale.set()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def change(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what ``work`` gives; what it changed is in force when this returns.

        It goes on to its end also when its client leaves.
        """
        return await finish(self._changed(work))

    async def refresh(self) -> None:
        """Read everything anew if anything changed. Raises ``MataError``."""
        async with self._turn:  # an older reading must not replace a newer one
            before = self._snapshot
            if before is not None and before.version == await self.accounts.version():
                return
            everything = await self.accounts.everything()
            fresh = await asyncio.to_thread(Snapshot, everything, self.tokens, self._rates)
            ended = set()
            if before is not None:
                ended = await asyncio.to_thread(fresh.ended, before)
            self._snapshot = fresh
            for identity in ended:
                self._sign_out(identity)

    async def _changed(self, work: Coroutine[Any, Any, T]) -> T:
        result = await work
        try:
            await self.refresh()
        except MataError as error:  # it is done, and must not look as if it were not
            self._log.warning("reloading the accounts failed and will be retried: %s", error.detail)
            self._stale.set()
        return result

    async def _keep(self) -> None:
        """Follow what other processes change, until the end."""
        while True:
            await self._stale.wait()
            if self._leaving.is_set():
                return
            self._stale.clear()
            try:
                await self.refresh()
            except MataError as error:
                self._log.warning("accounts cannot be read now: %s", error.detail)
                self._stale.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS):
                        await self._leaving.wait()

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


def _open(part: T | None) -> T:
    if part is None:
        raise Unavailable("Accounts are not open")
    return part
