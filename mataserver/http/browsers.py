"""Sessions of browsers: a cookie in place of a key, and codes that are worth one.

A page must not keep a key: what runs in it could read it. So the server keeps who was logged in,
and the browser a random name for that, in a cookie that scripts cannot read. Only digests are kept.
"""

from __future__ import annotations

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
"""A day's work: a session ends so long after it was last used."""
CODE_SECONDS = 600.0
MOST, MOST_OF_ONE = 1_000, 100
"""Sessions and codes kept at most, and of one principal; that used longest ago makes room.

Whoever signs in without end ends their own sessions, and nobody else's.
"""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
ANY = "*"
SITE = "Sec-Fetch-Site"
_OWN = frozenset({"same-origin", "none"})
_SCHEMES = frozenset({"http", "https"})
JUDGED = 256
"""Values of ``Host`` that are remembered: a client says the same each time."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Login:
    """A browser's session. ``csrf`` must accompany what changes something: only its page has it."""

    principal: Principal
    csrf: str


class Secrets(Generic[T]):
    """Random names for values, each for a while. ``renew`` counts the while from the last use."""

    def __init__(
        self, seconds: float, *, renew: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._renew = renew
        self._clock = clock
        self._kept: dict[bytes, tuple[float, str, T]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, value: T, owner: str) -> str:
        """Keep a value of somebody; return its name, of 256 bits."""
        self._make_room(owner)
        name = secrets.token_urlsafe(32)
        self._kept[_digest(name)] = (self._clock() + self._seconds, owner, value)
        return name

    def get(self, name: str) -> T | None:
        """Return the value of a name, or None for one that is unknown or over."""
        digest = _digest(name)
        until, owner, value = self._kept.get(digest, (0.0, "", None))
        if value is None or until < self._clock():
            self._kept.pop(digest, None)
            return None
        if self._renew:
            del self._kept[digest]  # so that the first one is always that used longest ago
            self._kept[digest] = (self._clock() + self._seconds, owner, value)
        return value

    def take(self, name: str) -> T | None:
        """Return the value of a name and forget both: it counts once."""
        value = self.get(name)
        self._kept.pop(_digest(name), None)
        return value

    def drop(self, wrong: Callable[[T], bool]) -> None:
        """Forget every value that is wrong now."""
        self._kept = {name: kept for name, kept in self._kept.items() if not wrong(kept[2])}

    def _make_room(self, owner: str) -> None:
        now = self._clock()
        self._kept = {name: kept for name, kept in self._kept.items() if kept[0] >= now}
        own = [name for name, kept in self._kept.items() if kept[1] == owner]
        for name in own[: max(0, len(own) + 1 - MOST_OF_ONE)]:
            del self._kept[name]
        while len(self._kept) >= MOST:
            del self._kept[next(iter(self._kept))]


class Browsers:
    """The sessions of browsers and the one-time codes that begin one.

    ``wall`` gives Unix seconds, by which keys end.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._wall = wall
        self._sessions: Secrets[Login] = Secrets(SESSION_SECONDS, renew=True, clock=clock)
        self._codes: Secrets[Principal] = Secrets(CODE_SECONDS, renew=False, clock=clock)

    def make_code(self, principal: Principal) -> str:
        """Return a code that begins one session as ``principal``, within ten minutes."""
        return self._codes.put(principal, principal.id)

    def spend_code(self, code: str) -> Principal | None:
        """Return whom a code stands for, once."""
        principal = self._codes.take(code)
        return None if principal is None or self._is_expired(principal) else principal

    def begin(self, principal: Principal) -> tuple[str, Login]:
        """Begin a session; return the cookie's value and the session."""
        login = Login(principal, secrets.token_urlsafe(16))
        return self._sessions.put(login, principal.id), login

    def find(self, cookie: str) -> Login | None:
        """Return the session of a cookie; None where there is none, or its key has ended."""
        login = self._sessions.get(cookie)
        if login is not None and self._is_expired(login.principal):
            self._sessions.take(cookie)
            return None
        return login

    def end(self, cookie: str) -> None:
        """End a session."""
        self._sessions.take(cookie)

    def end_all(self, identity: str) -> None:
        """End every session of a principal or of a grant: a key, token or account is no more."""

        def rests(principal: Principal) -> bool:
            return principal.rests_on(identity)

        self._sessions.drop(lambda login: rests(login.principal))
        self._codes.drop(rests)

    def _is_expired(self, principal: Principal) -> bool:
        return principal.until is not None and principal.until <= self._wall()


def cookie_name(host: str) -> str:
    """Return the cookie's name for a ``Host``: cookies know no ports, and machines are shared."""
    name, _, port = host.rpartition(":")
    return f"mataserver_{port}" if name and port.isdigit() else "mataserver"


def may_act(credentials: Credentials, login: Login, *, own: bool, socket: bool) -> bool:
    """Whether a cookie counts for a request: another site's page may have caused it.

    ``own`` says that it is one of the server's pages: see ``is_own``. A WebSocket can carry no
    header of a page's own, and a browser always tells its ``Origin``.
    """
    if not socket and credentials.method in SAFE and credentials.origin is None:
        return True
    if not own:
        return False
    given = credentials.csrf.encode("utf-8", "surrogateescape")
    return socket or credentials.method in SAFE or hmac.compare_digest(given, login.csrf.encode())


def is_foreign(
    headers: Mapping[str, str], scheme: str, host: str, allowed: Collection[str]
) -> bool:
    """Whether a request comes from a web page of an origin that is not ``allowed``.

    What no page sends has no ``Origin``. The page's own server is known by the browser's word
    (Fetch Metadata, https://www.w3.org/TR/fetch-metadata/), and where the browser says nothing, by
    the ``scheme`` and ``host`` that were asked: see ``same_origin``.
    """
    site, origin = headers.get(SITE), headers.get("Origin")
    if site in _OWN:
        return False
    if origin is not None and (ANY in allowed or origin in allowed):
        return False
    # A browser that tells a foreign site has looked at the scheme too, which we may not know.
    return site is not None or (origin is not None and not same_origin(origin, scheme, host))


def is_own(headers: Mapping[str, str], scheme: str, host: str) -> bool:
    """Whether a request tells that a page of the server's own has sent it."""
    site = headers.get(SITE)
    return (site is None or site in _OWN) and same_origin(headers.get("Origin"), scheme, host)


class Names:
    """The names by which a server is known, beside every address and ``localhost``.

    Whoever owns a domain can have it lead to any address, also to this machine's ("DNS rebinding"):
    to a browser its page is then of the same origin, and only the ``Host`` tells.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name.lower().rstrip(".") for name in names}
        self._judged: dict[str, bool] = {}

    def include(self, host: str) -> bool:
        """Whether a ``Host``, perhaps with a port, is one of the server's."""
        known = self._judged.get(host)
        if known is None:
            if len(self._judged) >= JUDGED:  # a client may invent any number
                self._judged.clear()
            known = self._judged[host] = self._includes(host)
        return known

    def _includes(self, host: str) -> bool:
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

    ``scheme`` is ``http`` or ``https``, or empty where nobody tells which was asked: either counts.
    """
    told, _, place = (origin or "").partition("://")
    known = told == scheme if scheme else told in _SCHEMES
    return known and bool(host) and place.lower() == host.lower()


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
