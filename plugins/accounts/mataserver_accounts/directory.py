"""The accounts as the server knows them: in the database, and in memory for every request.

A change is in force in this process when the request that made it is answered, and in others as
soon as the database tells them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa

from mataserver import MataError, Unavailable
from mataserver_accounts.passwords import Passwords
from mataserver_accounts.snapshot import InvalidToken, KeyRates, Snapshot
from mataserver_accounts.store import Accounts
from mataserver_accounts.tables import CHANNEL, SCHEMA
from mataserver_accounts.tokens import Tokens
from mataserver_database import Refusal, Refusals, finish

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Coroutine

    from mataserver import Principal
    from mataserver_accounts.options import Settings
    from mataserver_accounts.records import Key, User
    from mataserver_database import Database

RETRY_SECONDS = 1.0
STORE_SECONDS = 5.0
"""How often a revocation that could not be stored is tried again."""
APART_SECONDS = 60.0
"""How far the clock may differ from the database's before that is told; a token lasts minutes."""
BEHIND_SECONDS = 3_600.0
"""How far the clock may be behind what another server wrote down before that is told."""

T = TypeVar("T")


class Directory:
    """The users and keys.

    ``sign_out`` is called with the ids of revoked principals; ``clock`` gives Unix seconds.
    """

    def __init__(
        self,
        settings: Settings,
        log: logging.Logger,
        sign_out: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._log = log
        self._sign_out = sign_out
        self._lock = asyncio.Lock()
        self._change_event = asyncio.Event()
        self._accounts: Accounts | None = None
        self._tokens: Tokens | None = None
        self._snapshot: Snapshot | None = None
        self._clock = clock
        self._rates = KeyRates(clock)
        self._refusals = Refusals(log)
        self._retry: asyncio.TimerHandle | None = None

    @property
    def accounts(self) -> Accounts:
        """The accounts in the database. Raises ``Unavailable`` before the start."""
        return _require_open(self._accounts)

    @property
    def tokens(self) -> Tokens:
        """What makes and reads tokens. Raises ``Unavailable`` before the start."""
        return _require_open(self._tokens)

    def owner_of(self, secret: str) -> Principal | None:
        """Return whose a key or token is, from memory; see ``Snapshot.owner_of``."""
        found = _require_open(self._snapshot).owner_of(secret)
        if self._refusals and found is not None and self._is_refused(found):
            if found.kind == "key":
                return None
            raise InvalidToken("Invalid or expired token")
        return found

    def _is_refused(self, principal: Principal) -> bool:
        """Whether a key or token that was shown is refused, or its user."""
        return principal.grant in self._refusals or principal.id in self._refusals

    async def start(self, database: Database) -> None:
        """Migrate, make the first administrator, and read what there is. Raises ``MataError``."""
        await database.migrate(SCHEMA)
        accounts = Accounts(database, Passwords(), self._clock)
        await accounts.bootstrap(self._settings.username, self._settings.password_hash)
        secret = self._settings.jwt_secret or await accounts.secret("jwt")
        self._tokens = Tokens(secret, self._settings.token_seconds, self._clock)
        self._accounts = accounts
        await accounts.secret("version")
        await self.refresh()
        self._check_clock(_require_open(self._snapshot).newest())
        if abs(ahead := self._clock() - await _time_of(database)) > APART_SECONDS:
            self._log.warning(
                "the clock is %.0f seconds %s the database's: until it is set, tokens from a "
                "server whose clock is behind end too early on the others, or are refused at once",
                abs(ahead),
                "ahead of" if ahead > 0 else "behind",
            )
        database.watch(CHANNEL, self._change_event.set)

    def _check_clock(self, newest: float) -> None:
        """Warn of a clock before the newest user or key: keys that are over would count again."""
        behind = newest - self._clock()
        if behind > BEHIND_SECONDS:
            self._log.warning(
                "the clock is %.1f days behind the newest user or key: keys and tokens whose time "
                "is over may count again until it is set",
                behind / 86_400.0,
            )

    async def change(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what ``work`` gives; what it changed is in force when this returns.

        It is completed also when its client leaves.
        """
        return await finish(self._apply(work))

    async def user_to_revoke(self, identity: str) -> User:
        """Return a user by id or name, from memory where the database does not answer.

        Raises ``NotFound``, and ``Unavailable`` for one who is not in memory either.
        """
        try:
            return await self.accounts.user(identity)
        except Unavailable:
            if (known := _require_open(self._snapshot).user(identity)) is None:
                raise
            return known

    async def key_to_revoke(self, key_id: str) -> Key:
        """Return a key by its id; where from, and what it raises, as ``user_to_revoke``."""
        try:
            return await self.accounts.key(key_id)
        except Unavailable:
            if (known := _require_open(self._snapshot).key(key_id)) is None:
                raise
            return known

    async def revoke(
        self, identity: str, work: Callable[[], Coroutine[Any, Any, T]], asked_by: str
    ) -> T:
        """Return what ``work()`` gives, which revokes a key, a token or a user of this id.

        Where the database does not take it, this server refuses them all the same, and stores it
        when it can: ``work`` is called again. Raises what ``work`` does, also then. The log names
        ``asked_by``.
        """
        return await finish(self._revoke(identity, work, asked_by))

    async def _revoke(
        self, identity: str, work: Callable[[], Coroutine[Any, Any, T]], asked_by: str
    ) -> T:
        try:
            return await self._apply(work())
        except Unavailable as error:
            refusal = Refusal(identity, work, asked_by, error.detail)
            self._refusals.add(identity, refusal)
            self._sign_out(identity)
            self._change_event.set()
            raise refusal.error(error) from None

    async def refresh(self) -> None:
        """Reload everything if anything changed. Raises ``MataError``."""
        async with self._lock:  # an older reading must not replace a newer one
            before = self._snapshot
            if before is not None and before.version == await self.accounts.version():
                return
            everything = await self.accounts.read_all()
            fresh = await asyncio.to_thread(
                Snapshot, everything, self.tokens, self._rates, self._clock
            )
            ended = set()
            if before is not None:
                ended = await asyncio.to_thread(fresh.revoked_since, before)
            self._snapshot = fresh
            for identity in ended:
                self._sign_out(identity)

    async def _apply(self, work: Coroutine[Any, Any, T]) -> T:
        result = await work
        try:
            await self.refresh()
        except Exception as error:  # noqa: BLE001 - it is done, and must not look as if it were not
            self._change_event.set()  # it is read again by what follows changes
            if isinstance(error, MataError):
                self._log.warning("reading the accounts failed, and follows: %s", error.detail)
            else:
                with contextlib.suppress(MemoryError):
                    self._log.exception("reading the accounts failed, and follows")
        return result

    async def follow_changes(self) -> None:
        """Follow what other processes change, until cancelled; it may be begun again."""
        self._change_event.set()  # a change may be what it failed at
        told = ""
        while True:
            await self._change_event.wait()
            self._change_event.clear()
            try:
                await finish(self.refresh())
                await self._store_refusals()
                told = ""
            except MataError as error:
                if error.detail != told:
                    self._log.warning("accounts cannot be read now: %s", error.detail)
                told = error.detail
                self._change_event.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def _store_refusals(self) -> None:
        """Store the revocations that could not be stored, or try again after a while."""
        if self._refusals and (settled := await self._refusals.store()):
            await finish(self.refresh())
            self._refusals.drop(settled)
        if self._retry is not None:
            self._retry.cancel()
        if self._refusals:
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(STORE_SECONDS, self._change_event.set)


def _require_open(part: T | None) -> T:
    if part is None:
        raise Unavailable("Accounts are not open")
    return part


async def _time_of(database: Database) -> float:
    """Return Unix seconds by the clock that all servers of a database have in common."""
    async with database.read() as connection:
        return float(await connection.scalar(sa.select(database.now())) or 0.0)
