"""Browser sessions: a cookie instead of a key, and one-time codes to obtain one.

A page must not store a key, which any script in it could read. Instead the server keeps the login,
and the browser its random name, in a cookie that scripts cannot read. Only digests are stored.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import ipaddress
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from mataserver.principals import Credentials, Principal

SESSION_SECONDS = 12 * 3600.0
"""Idle lifetime of a session: a working day."""
CODE_SECONDS = 600.0
MAX_SESSIONS, MAX_SESSIONS_OF_ONE = 1_000, 100
"""Maximum number of sessions and codes, in total and per principal; the least recently used goes.

Unlimited sign-ins of one principal end only that principal's sessions.
"""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
ANY = "*"
FETCH_SITE = "Sec-Fetch-Site"
_OWN_SITES = frozenset({"same-origin", "none"})
_SCHEMES = frozenset({"http", "https"})
MAX_CACHED_HOSTS = 256
"""Size of the cache of checked ``Host`` values: each client repeats its own."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """A browser's session. Modifying requests need ``csrf``, which only its own page knows."""

    principal: Principal
    csrf: str


class ExpiringSecrets(Generic[T]):
    """Values under random names, with a lifetime, which ``renew`` restarts at each use."""

    def __init__(
        self, seconds: float, *, renew: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._renew = renew
        self._clock = clock
        self._entries: dict[bytes, tuple[float, str, T]] = {}

    def put(self, value: T, owner: str) -> str:
        """Store an owner's value; return its random name of 256 bits."""
        self._evict(owner)
        name = secrets.token_urlsafe(32)
        self._entries[_digest(name)] = (self._clock() + self._seconds, owner, value)
        return name

    def get(self, name: str) -> T | None:
        """Return the value of a name, or None if it is unknown or expired."""
        digest = _digest(name)
        until, owner, value = self._entries.get(digest, (0.0, "", None))
        if value is None or until < self._clock():
            self._entries.pop(digest, None)
            return None
        if self._renew:
            del self._entries[digest]  # keeps the dict in order of last use
            self._entries[digest] = (self._clock() + self._seconds, owner, value)
        return value

    def take(self, name: str) -> T | None:
        """Return and remove the value of a name."""
        value = self.get(name)
        self._entries.pop(_digest(name), None)
        return value

    def drop(self, wrong: Callable[[T], bool]) -> None:
        """Remove every value for which ``wrong`` is true."""
        self._entries = {name: kept for name, kept in self._entries.items() if not wrong(kept[2])}

    def _evict(self, owner: str) -> None:
        now = self._clock()
        self._entries = {name: kept for name, kept in self._entries.items() if kept[0] >= now}
        own = [name for name, kept in self._entries.items() if kept[1] == owner]
        for name in own[: max(0, len(own) + 1 - MAX_SESSIONS_OF_ONE)]:
            del self._entries[name]
        while len(self._entries) >= MAX_SESSIONS:
            del self._entries[next(iter(self._entries))]


class BrowserSessions:
    """Browser sessions, and the one-time codes that start them.

    ``wall`` returns Unix seconds, the scale of keys' expiry.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._wall = wall
        self._sessions: ExpiringSecrets[BrowserSession] = ExpiringSecrets(
            SESSION_SECONDS, renew=True, clock=clock
        )
        self._codes: ExpiringSecrets[Principal] = ExpiringSecrets(
            CODE_SECONDS, renew=False, clock=clock
        )

    def make_code(self, principal: Principal) -> str:
        """Return a code that starts one session as ``principal``, within ten minutes."""
        return self._codes.put(principal, principal.id)

    def redeem_code(self, code: str) -> Principal | None:
        """Return the principal of a code and invalidate the code."""
        principal = self._codes.take(code)
        return None if principal is None or self._is_expired(principal) else principal

    def begin(self, principal: Principal) -> tuple[str, BrowserSession]:
        """Start a session; return the cookie's value and the session."""
        login = BrowserSession(principal, secrets.token_urlsafe(16))
        return self._sessions.put(login, principal.id), login

    def find(self, cookie: str) -> BrowserSession | None:
        """Return the session of a cookie; None if there is none, or its key has expired."""
        login = self._sessions.get(cookie)
        if login is not None and self._is_expired(login.principal):
            self._sessions.take(cookie)
            return None
        return login

    def end(self, cookie: str) -> None:
        """End a session."""
        self._sessions.take(cookie)

    def end_all(self, identity: str) -> None:
        """End every session of a principal or grant, after a key, token or account was revoked."""
        self._sessions.drop(lambda login: login.principal.rests_on(identity))
        self._codes.drop(lambda principal: principal.rests_on(identity))

    def _is_expired(self, principal: Principal) -> bool:
        return principal.until is not None and principal.until <= self._wall()


def cookie_name(host: str) -> str:
    """Return the cookie's name for a ``Host``: cookies ignore ports, so the name includes it."""
    name, _, port = host.rpartition(":")
    return f"mataserver_{port}" if name and port.isdigit() else "mataserver"


def is_cookie_valid(
    credentials: Credentials, login: BrowserSession, *, own: bool, socket: bool
) -> bool:
    """Whether a cookie is valid for a request, which another site's page may have caused (CSRF).

    ``own`` says that it came from one of the server's pages: see ``is_own``. WebSockets cannot
    carry a CSRF header, but browsers always send their ``Origin``.
    """
    if not socket and credentials.method in SAFE_METHODS and credentials.origin is None:
        return True
    if not own:
        return False
    given = credentials.csrf.encode("utf-8", "surrogateescape")
    return (
        socket
        or credentials.method in SAFE_METHODS
        or hmac.compare_digest(given, login.csrf.encode())
    )


def is_foreign(
    headers: Mapping[str, str], scheme: str, host: str, allowed: Collection[str]
) -> bool:
    """Whether a request comes from a web page whose origin is not ``allowed``.

    Non-browser clients send no ``Origin``. The server's own pages are recognized by Fetch Metadata
    (https://www.w3.org/TR/fetch-metadata/), or without it by ``scheme`` and ``host``: see
    ``same_origin``.
    """
    site, origin = headers.get(FETCH_SITE), headers.get("Origin")
    if site in _OWN_SITES:
        return False
    if origin is not None and (ANY in allowed or origin in allowed):
        return False
    # A browser's verdict includes the scheme, which this server may not know behind a proxy.
    return site is not None or (origin is not None and not same_origin(origin, scheme, host))


def is_own(headers: Mapping[str, str], scheme: str, host: str) -> bool:
    """Whether a request was sent by one of the server's own pages."""
    site = headers.get(FETCH_SITE)
    return (site is None or site in _OWN_SITES) and same_origin(headers.get("Origin"), scheme, host)


class HostNames:
    """The host names of a server, besides all IP addresses and ``localhost``.

    The owner of a domain can make it resolve to any address, including this machine's ("DNS
    rebinding"). A browser then considers the domain's page same-origin, and only the ``Host``
    reveals it.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name.lower().rstrip(".") for name in names}
        self.matches = functools.lru_cache(MAX_CACHED_HOSTS)(self._matches)

    def _matches(self, host: str) -> bool:
        """Whether a ``Host``, optionally with a port, is one of the server's."""
        name, _, port = host.lower().partition("]:" if host.startswith("[") else ":")
        if port and not port.isdecimal():
            return False
        if name.startswith("["):
            return _is_address(name[1:].removesuffix("]"))
        name = name.rstrip(".")
        local = name == "localhost" or name.endswith(".localhost")
        return local or ANY in self._names or name in self._names or _is_address(name)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def same_origin(origin: str | None, scheme: str, host: str) -> bool:
    """Whether an ``Origin`` is that of the server's own pages.

    ``scheme`` is ``http`` or ``https``; if it is empty, as it is unknown, both match.
    """
    origin_scheme, _, authority = (origin or "").partition("://")
    known = origin_scheme == scheme if scheme else origin_scheme in _SCHEMES
    return known and bool(host) and authority.lower() == host.lower()


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
