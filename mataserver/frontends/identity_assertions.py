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

ASSERTION_HEADER = "X-Mataserver-Vouched"
WINDOW = 30.0
"""Validity of an assertion, and maximum clock difference, in seconds."""
MAX_REMEMBERED = 100_000
"""Maximum number of unexpired assertions remembered; more are rejected."""
MAX_PATH = 5_000
"""Bytes of a path in JSON that an assertion holds as it is; of a longer one, its SHA-256.

A header is shorter than a path may be. Older servers know the path itself alone.
"""


class InvalidAssertion(MataError):
    """401: the request's assertion is not valid."""

    status = 401


class _Claims(Struct, frozen=True, kw_only=True):
    """The claims; ``to`` is the target's tag, ``at`` the time of issue in Unix seconds.

    ``once`` is a nonce, which prevents replay.
    """

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


class IdentityAssertions:
    """Issues and verifies assertions by ``secret``, each once. ``clock`` is Unix time."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._clock = clock
        self._used: dict[str, float] = {}

    def issue(self, principal: Principal, method: str, path: str, to: str) -> str:
        """Return the header value for a request; ``path`` is as sent, with its query.

        ``to`` is the tag of the target: a process that took over the address of a former front-end
        must not be able to replay the assertion at another one.
        """
        claims = _Claims(
            id=principal.id,
            name=principal.name,
            kind=principal.kind,
            scopes=tuple(sorted(principal.scopes)),
            grant=principal.grant,
            until=principal.until,
            background=principal.background,
            method=method,
            path=path if len(msgspec.json.encode(path)) <= MAX_PATH else _digest(path),
            to=to,
            at=self._clock(),
            once=secrets.token_hex(8),
        )
        payload = base64.urlsafe_b64encode(msgspec.json.encode(claims))
        return f"{payload.decode()}.{self._sign(payload)}"

    def verify(self, value: str, method: str, path: str, to: str) -> Principal:
        """Return the asserted principal. Raises ``InvalidAssertion`` for an invalid assertion."""
        payload, _, signature = value.encode("utf-8", "surrogateescape").partition(b".")
        if not hmac.compare_digest(signature, self._sign(payload).encode()):
            raise InvalidAssertion("The request has no token of a front-end of this server")
        try:
            claims = msgspec.json.decode(base64.urlsafe_b64decode(payload), type=_Claims)
            principal = _principal(claims)
        except (binascii.Error, msgspec.DecodeError, ValueError):  # of another version
            raise InvalidAssertion("The front-ends are of different versions") from None
        is_same_path = claims.path in (path, _digest(path))
        if not is_same_path or (claims.method, claims.to) != (method, to):
            raise InvalidAssertion("The front-end's token is for another request")
        self._check_single_use(claims)
        return principal

    def _sign(self, payload: bytes) -> str:
        return hmac.new(self._secret, payload, hashlib.sha256).hexdigest()

    def _check_single_use(self, claims: _Claims) -> None:
        """Reject an expired or replayed assertion. Raises ``InvalidAssertion``."""
        now = self._clock()
        if abs(now - claims.at) > WINDOW:
            raise InvalidAssertion("The clocks of the front-ends differ by more than 30 seconds")
        while self._used and self._used[first := next(iter(self._used))] <= now:
            del self._used[first]  # in order of arrival, hence of expiry
        if claims.once in self._used or len(self._used) >= MAX_REMEMBERED:
            raise InvalidAssertion("The front-end's token was used already")
        self._used[claims.once] = now + 2 * WINDOW


def _digest(path: str) -> str:
    """Return the SHA-256 of a path, which no path is itself: they begin with a slash."""
    return hashlib.sha256(path.encode()).hexdigest()


def _principal(claims: _Claims) -> Principal:
    return Principal(
        claims.id,
        claims.name,
        claims.kind,
        frozenset(claims.scopes),
        grant=claims.grant,
        until=claims.until,
        background=claims.background,
    )
