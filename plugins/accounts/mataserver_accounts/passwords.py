"""Passwords: argon2id with the parameters of OWASP's Password Storage Cheat Sheet.

Hashing takes some 60 ms of a core by design. It runs in two threads of its own, so that a flood
of log-ins takes no more than that from those who infer, and never more memory than two hashes. They
have no lower priority: with one, requests took longer in the one trial there was, perhaps because a
thread that is held up while it has the interpreter holds up all.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from argon2 import PasswordHasher

T = TypeVar("T")

THREADS = 2
MAX_LENGTH = 1024
"""Characters of a password; a longer one would cost the server much and the caller nothing."""
_SHA256 = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)


class Passwords:
    """Hashes and checks passwords."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._given = hasher
        self._threads = ThreadPoolExecutor(THREADS, "password")

    @cached_property
    def _hasher(self) -> PasswordHasher:
        """What hashes. Its package is imported for the first password: most starts have none."""
        from argon2 import PasswordHasher

        return self._given or PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)

    @cached_property
    def _dummy_hash(self) -> str:
        """A hash that takes as long to check as a user's; it takes as long to make."""
        return self._hasher.hash("")

    async def hash(self, password: str) -> str:
        """Return the hash of a password."""
        return await self._threaded(lambda: self._hasher.hash(password))

    async def matches(self, password: str, known: str | None) -> bool:
        """Whether a password matches a hash; None, for an unknown user, takes as long: False."""
        found = await self._threaded(partial(self._verify, password, known))
        return found and known is not None

    async def _threaded(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def is_outdated(self, known: str) -> bool:
        """Whether a hash is of another kind than those that are made now."""
        return _is_sha256(known) or self._hasher.check_needs_rehash(known)

    def is_usable(self, known: str) -> bool:
        """Whether a text is a hash that ``matches`` can check."""
        if _is_sha256(known):
            return True
        from argon2.exceptions import InvalidHashError

        try:
            self._hasher.check_needs_rehash(known)
        except InvalidHashError:
            return False
        return True

    def _verify(self, password: str, known: str | None) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        # Made by the first check and not by the start, which it would delay. Every check asks for
        # it, so that the first one takes longer for a user who exists, too.
        dummy = self._dummy_hash
        if known is None:
            return self._verify(password, dummy)
        if _is_sha256(known):  # as a first administrator may be given; hashed anew at the log-in
            self._verify(password, dummy)  # takes as long as every other check
            digest = hashlib.sha256(password.encode("utf-8", "surrogatepass")).hexdigest()
            return hmac.compare_digest(digest, known.lower())
        try:
            return self._hasher.verify(known, password)
        except (VerificationError, InvalidHashError, UnicodeEncodeError):
            return False


def _is_sha256(known: str) -> bool:
    return _SHA256.fullmatch(known) is not None
