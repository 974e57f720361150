"""How one front-end tells another who asks: signed with what both have from the shared directory.

The front-end that a client reached has judged its key, its cookie, its page. The one that holds
what was asked for takes its word, and need not know the key: cookies are known to one alone.
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
"""Seconds that a word counts, and that clocks of front-ends may differ."""
MOST = 100_000
"""Words that are remembered within their time; more are refused."""


class Distrusted(MataError):
    """401: nobody that we know vouches for this request."""

    status = 401


class _Word(Struct, frozen=True, kw_only=True):
    """Who asks what: ``to`` is the tag of the front-end asked, ``at`` seconds of the Unix clock."""

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
    """Gives and takes words under one ``secret``; each is taken once. ``clock`` is the Unix one."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._clock = clock
        self._taken: dict[str, float] = {}

    def give(self, principal: Principal, method: str, path: str, to: str) -> str:
        """Return the value of ``HEADER`` for a request; ``path`` is as sent, with its query.

        ``to`` is the tag of the front-end that is asked: whoever listens at the address of one that
        is gone shall not ask another one in our name.
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
        """Return who asks by a front-end's word. Raises ``Distrusted`` for what is none."""
        said, _, signature = value.encode("utf-8", "surrogateescape").partition(b".")
        if not hmac.compare_digest(signature, self._sign(said).encode()):
            raise Distrusted("No front-end of this server vouches for the request")
        try:
            word = msgspec.json.decode(base64.urlsafe_b64decode(said), type=_Word)
            principal = _principal(word)
        except (binascii.Error, msgspec.DecodeError, ValueError):  # another version's
            raise Distrusted("The front-ends are of different versions") from None
        if (word.method, word.path, word.to) != (method, path, to):
            raise Distrusted("The front-end vouched for another request")
        self._note(word)
        return principal

    def _sign(self, said: bytes) -> str:
        return hmac.new(self._secret, said, hashlib.sha256).hexdigest()

    def _note(self, word: _Word) -> None:
        """Take a word once, and in its time. Raises ``Distrusted``."""
        now = self._clock()
        if abs(now - word.at) > WINDOW:
            raise Distrusted("The clocks of the front-ends differ by more than 30 seconds")
        while self._taken and self._taken[first := next(iter(self._taken))] <= now:
            del self._taken[first]  # they stand in the order of their coming
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
