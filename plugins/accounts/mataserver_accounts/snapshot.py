"""Authentication from memory: the request's path uses no database.

The snapshot is made anew after each change, at once in the process that changed something and
within a second in the others.
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from mataserver import ROLES, SCOPES, MataError, Principal
from mataserver_accounts.keys import KEY_PREFIX, digest
from mataserver_accounts.tokens import looks_like_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver_accounts.records import Key, User
    from mataserver_accounts.store import AccountData
    from mataserver_accounts.tokens import Tokens

MINUTE = 60.0


class InvalidToken(MataError):
    """401: a token that is forged, over or revoked."""

    status = 401


class RateLimited(MataError):
    """429: a key asked more often than it may."""

    status = 429


class KeyRates:
    """What keys have asked in the last minute. It outlasts the snapshots, which come and go."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked: dict[str, deque[float]] = {}

    def count(self, key: str, rate: int) -> None:
        """Count one more request. Raises ``RateLimited`` for one too many."""
        now = self._clock()
        asked = self._asked.setdefault(key, deque())
        while asked and not now - MINUTE < asked[0] <= now:
            asked.popleft()
        if len(asked) >= rate:
            wait = asked[0] + MINUTE - now
            raise RateLimited(f"This key is limited to {rate} requests a minute", retry_after=wait)
        asked.append(now)


class Snapshot:
    """All users and keys as of one moment.

    ``clock`` gives Unix seconds; ``rates`` hold what keys have asked before that moment.
    """

    def __init__(
        self,
        everything: AccountData,
        tokens: Tokens,
        rates: KeyRates,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.version = everything.version
        self._tokens = tokens
        self._clock = clock
        self._rates = rates
        self._users = {user.id: (user, generation) for user, generation in everything.users}
        self._keys = {known: (key, self._of_key(key)) for known, key in everything.keys}
        self._revoked = everything.revoked

    def newest(self) -> float:
        """Return when the newest user or key was made; 0 without any."""
        made = [user.created_at for user, _ in self._users.values()]
        made += [key.created_at for key, _ in self._keys.values()]
        return max(made, default=0.0)

    def user(self, identity: str) -> User | None:
        """Return a user by id or name."""
        users = (user for user, _ in self._users.values())
        return next((each for each in users if identity in {each.id, each.name}), None)

    def key(self, key_id: str) -> Key | None:
        """Return a key by its id."""
        return next((key for key, _ in self._keys.values() if key.id == key_id), None)

    def revoked_since(self, before: Snapshot) -> set[str]:
        """Return the ids of principals and tokens that were revoked since another snapshot."""
        over = {identity for identity, _ in before._grants() - self._grants()}
        return over | (self._revoked - before._revoked)

    def _grants(self) -> set[tuple[str, object]]:
        """Return pairs of a principal's id and what it rests on."""
        users = {
            (user.id, (generation, user.role))
            for user, generation in self._users.values()
            if not user.disabled
        }
        keys = {(key.id, known) for known, (key, each) in self._keys.items() if each is not None}
        return users | keys

    def owner_of(self, secret: str) -> Principal | None:
        """Return whose a secret is; None for what is neither a key nor a token of ours.

        Raises ``InvalidToken`` for a token that does not count, ``RateLimited`` for a key that
        asks too often.
        """
        if secret.startswith(KEY_PREFIX):
            return self._key(secret)
        if looks_like_token(secret):
            return self._token(secret)
        return None

    def _key(self, secret: str) -> Principal | None:
        found = self._keys.get(digest(secret))
        if found is None:
            return None
        key, principal = found
        if principal is None or (key.expires_at is not None and key.expires_at <= self._clock()):
            return None
        if principal.count is not None:
            principal.count()
        return principal

    def _token(self, token: str) -> Principal:
        claims = self._tokens.read(token)
        user, generation = self._users.get(claims.user, (None, 0)) if claims else (None, 0)
        counts = (
            claims is not None
            and user is not None
            and not user.disabled
            and claims.generation == generation
            and claims.id not in self._revoked
        )
        if not counts or user is None or claims is None:
            raise InvalidToken("Invalid or expired token")
        return principal_of(user, claims.id)

    def _of_key(self, key: Key) -> Principal | None:
        """Return whom a key stands for: its owner within its scopes, or itself."""
        # A later version may have written a scope that this one does not know.
        scopes = frozenset(key.scopes).intersection(SCOPES)
        count = None if key.rate is None else partial(self._rates.count, key.id, key.rate)
        rest: Any = {"grant": key.id, "until": key.expires_at, "count": count}
        if key.owner is None:
            name = f"key:{key.id}"
            return Principal(name, key.name, "key", scopes, **rest)
        user, _ = self._users.get(key.owner, (None, 0))
        if user is None or user.disabled:
            return None
        scopes &= ROLES[user.role]
        return Principal(user.id, user.name, "key", scopes, **rest)


def principal_of(user: User, grant: str = "") -> Principal:
    """Return the principal of a user who shows a token, of that id.

    A browser's session that begins with the token outlasts it, unless that is revoked.
    """
    return Principal(user.id, user.name, "user", ROLES[user.role], grant=grant)
