"""Assertions of a caller's identity between front-ends, signed with their shared secret.

The front-end that received a request has authenticated its key, cookie or page. The one that holds
the resource trusts its assertion and need not know the credentials: cookies exist on one only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from mataserver.errors import MataError
from mataserver.principals import Principal

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = "X-Mataserver-Vouched"
WINDOW = 30.0
"""Validity of an assertion, and maximum clock difference, in seconds."""
MOST = 100_000
"""Maximum number of unexpired assertions remembered; more are rejected."""


class Distrusted(MataError):
    """401: the request's assertion is not valid."""

    status = 401


class _Word(Struct, frozen=True, kw_only=True):
    """The claims; ``to`` is the target's tag, ``at`` the time of issue in Unix seconds."""

    id: str
    name: str
    kind: str
    scopes: tuple[str, ...]
    grant: str
    until: float | None
    background: bool
    method: str
    path: str
    to: str
    at: float
    once: str


class Voucher:
    """Issues and verifies assertions by ``secret``, each once. ``clock`` is Unix time."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._clock = clock
        self._taken: dict[str, float] = {}

    def give(self, principal: Principal, method: str, path: str, to: str) -> str:
        """Return the value of ``HEADER`` for a request; ``path`` is as sent, with its query.

        ``to`` is the tag of the target: a process that took over the address of a former front-end
        must not be able to replay the assertion at another one.
        """
        word = _Word(
            id=principal.id,
            name=principal.name,
            kind=principal.kind,
            scopes=tuple(sorted(principal.scopes)),
            grant=principal.grant,
            until=principal.until,
            background=principal.background,
            method=method,
            path=path,
            to=to,
            at=self._clock(),
            once=secrets.token_hex(8),
        )
        said = base64.urlsafe_b64encode(msgspec.json.encode(word))
        return f"{said.decode()}.{self._sign(said)}"

    def take(self, value: str, method: str, path: str, to: str) -> Principal:
        """Return the asserted principal. Raises ``Distrusted`` for an invalid assertion."""
        said, _, signature = value.encode("utf-8", "surrogateescape").partition(b".")
        if not hmac.compare_digest(signature, self._sign(said).encode()):
            raise Distrusted("No front-end of this server vouches for the request")
        try:
            word = msgspec.json.decode(base64.urlsafe_b64decode(said), type=_Word)
            principal = _principal(word)
        except (binascii.Error, msgspec.DecodeError, ValueError):  # of another version
            raise Distrusted("The front-ends are of different versions") from None
        if (word.method, word.path, word.to) != (method, path, to):
            raise Distrusted("The front-end vouched for another request")
        self._note(word)
        return principal

    def _sign(self, said: bytes) -> str:
        return hmac.new(self._secret, said, hashlib.sha256).hexdigest()

    def _note(self, word: _Word) -> None:
        """Reject an expired or replayed assertion. Raises ``Distrusted``."""
        now = self._clock()
        if abs(now - word.at) > WINDOW:
            raise Distrusted("The clocks of the front-ends differ by more than 30 seconds")
        while self._taken and self._taken[first := next(iter(self._taken))] <= now:
            del self._taken[first]  # in order of arrival, hence of expiry
        if word.once in self._taken or len(self._taken) >= MOST:
            raise Distrusted("The front-end's word was taken already")
        self._taken[word.once] = now + 2 * WINDOW


def _principal(word: _Word) -> Principal:
    return Principal(
        word.id,
        word.name,
        word.kind,
        frozenset(word.scopes),
        grant=word.grant,
        until=word.until,
        background=word.background,
    )
