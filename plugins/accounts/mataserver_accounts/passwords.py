"""Passwords: argon2id with the parameters of OWASP's Password Storage Cheat Sheet.

Hashing takes some 60 ms of a core by design. It runs beside the event loop, two at a time, so that
a flood of log-ins takes no more than that from those who infer.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

AT_ONCE = 2
MAX_LENGTH = 1024
"""Characters of a password; hashing a longer one would cost who asks nothing and us much."""
_SHA256 = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)


class Passwords:
    """Hashes and checks passwords."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._nobodys = self._hasher.hash("")

    async def hash(self, password: str) -> str:
        """Return the hash of a password."""
        async with self._turn:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def matches(self, password: str, known: str | None) -> bool:
        """Whether a password is the one of a hash; None, of nobody, takes as long and never is."""
        async with self._turn:
            found = await asyncio.to_thread(self._verify, password, known or self._nobodys)
        return found and known is not None

    def outdated(self, known: str) -> bool:
        """Whether a hash is of another kind than those that are made now."""
        return _is_sha256(known) or self._hasher.check_needs_rehash(known)

    def usable(self, known: str) -> bool:
        """Whether a text is a hash that ``matches`` can check."""
        if _is_sha256(known):
            return True
        try:
            self._hasher.check_needs_rehash(known)
        except InvalidHashError:
            return False
        return True

    def _verify(self, password: str, known: str) -> bool:
        if _is_sha256(known):  # as a first administrator may be given; hashed anew at the log-in
            self._verify(password, self._nobodys)  # takes as long as every other check
            digest = hashlib.sha256(password.encode("utf-8", "surrogatepass")).hexdigest()
            return hmac.compare_digest(digest, known.lower())
        try:
            return self._hasher.verify(known, password)
        except (VerificationError, InvalidHashError, UnicodeEncodeError):
            return False


def _is_sha256(known: str) -> bool:
    return _SHA256.fullmatch(known) is not None
