"""Who asks, and what they may do: credentials, principals, scopes and roles.

A request carries credentials; the core's keys, then each plugin's service, tell whose they are. The
principal that comes of it stands in ``request["principal"]``, owns what is made in its name (jobs,
sessions, uploads), and must have the scope that a route needs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

SCOPES = {
    "infer": "Ask models: inference, sessions, streams, chats.",
    "models:read": "See models, plugins and sessions.",
    "models:write": "Pull, load, unload, pin and remove models.",
    "jobs:read": "See one's own jobs and their files.",
    "jobs:write": "Start, cancel and remove one's own jobs.",
    "fleet:read": "See the servers, models and applications of a fleet.",
    "fleet:write": "Change them.",
    "admin": "Everything else: settings, users, what others own.",
}
"""What a principal may be allowed, each with a sentence."""

READS = frozenset({"models:read", "jobs:read", "fleet:read"})
EVERYTHING = frozenset(SCOPES)
ROLES = {
    "viewer": READS,
    "developer": READS | {"infer", "jobs:write"},
    "admin": EVERYTHING,
}
"""What people may do; a developer also changes the applications that they are authorised for."""

ANYBODY = "any"
"""What a route needs that answers whoever is known, whatever their scopes."""

Scheme = Literal["bearer", "basic", "key", "token", "cookie", ""]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request shows, read once.

    scheme:  where the secret was: ``Authorization: Bearer`` or ``Basic``, ``X-API-Key``, a
             WebSocket's ``?token=``, a browser session's cookie; empty when there was nothing.
    secret:  the key, token, password or cookie; never logged.
    user:    the name beside a Basic password.
    origin:  the ``Origin`` header; a browser sends it with requests that change something.
    host:    the ``Host`` header.
    csrf:    the ``X-CSRF-Token`` header.
    address: the client's address.
    """

    scheme: Scheme = ""
    secret: str = field(default="", repr=False)
    user: str = ""
    method: str = "GET"
    path: str = "/"
    origin: str | None = None
    host: str = ""
    csrf: str = field(default="", repr=False)
    address: str = ""

    @property
    def given(self) -> bool:
        """Whether anything was shown."""
        return bool(self.scheme)


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who asks.

    id:     never changes and is never given twice; what people own is owned by it.
    name:   for people to read.
    kind:   "key", "user", "anonymous", or a kind of a plugin's own.
    scopes: what it may do: a frozenset of names of ``SCOPES``.
    grant:  what was shown, by an id that is no secret: ``sign_out`` may name it.
    until:  when that ends, in Unix seconds; a browser's session that it began ends with it.
    background: whether its requests can wait: models answer everybody else's first.
    count:  counts one more request of a browser's session that it began, which shows a cookie and
            not the key: ``authenticate`` is not asked again. Raises what refuses one too many.

    Raises ``TypeError`` for scopes that are no frozenset (in a text every part of it would count),
    ``ValueError`` for one that there is not.
    """

    id: str
    name: str
    kind: str
    scopes: frozenset[str]
    grant: str = field(default="", compare=False)
    until: float | None = field(default=None, compare=False)
    background: bool = field(default=False, compare=False)
    count: Callable[[], None] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Raise for scopes that would let in somebody else than was meant."""
        if not isinstance(self.scopes, frozenset):
            raise TypeError(f"scopes: a frozenset, not {type(self.scopes).__name__}")
        if not self.scopes <= EVERYTHING:
            unknown = ", ".join(sorted(map(repr, self.scopes - EVERYTHING)))
            raise ValueError(f"scopes: {unknown} is none of {', '.join(SCOPES)}")

    @property
    def unrestricted(self) -> bool:
        """Whether it has every scope."""
        return self.scopes >= EVERYTHING

    def rests_on(self, identity: str) -> bool:
        """Whether it is the principal of an id, or was let in by that grant, empty for none."""
        return identity != "" and identity in {self.id, self.grant}

    def may(self, needs: str | None) -> bool:
        """Whether it has the scope that a route needs; None asks for every scope."""
        if needs is None:
            return self.unrestricted
        return needs == ANYBODY or needs in self.scopes or "admin" in self.scopes


ANONYMOUS = Principal("anonymous", "anonymous", "anonymous", EVERYTHING)
"""Whoever asks a server that asks for no key."""


def key_id(key: str) -> str:
    """Return the id of the principal behind an API key: it tells keys apart, not what they are."""
    return "key:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:12]
