"""Identity and permissions of callers: credentials, principals, scopes and roles.

A request has credentials; the core's keys, then each plugin's service, resolve them to a principal,
which is ``request["principal"]``, owns what is created in its name (jobs, sessions, uploads), and
must have the scope that a route requires.
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
"""The scopes of principals, each with a description."""

READS = frozenset({"models:read", "jobs:read", "fleet:read"})
EVERYTHING = frozenset(SCOPES)
ROLES = {
    "viewer": READS,
    "developer": READS | {"infer", "jobs:write"},
    "admin": EVERYTHING,
}
"""The roles of users; a developer may also change the applications they are authorized for."""

ANYBODY = "any"
"""Requirement of a route that any authenticated caller satisfies, whatever their scopes."""

Scheme = Literal["bearer", "basic", "key", "token", "cookie", ""]


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of a request.

    scheme:  where the secret was: ``Authorization: Bearer`` or ``Basic``, ``X-API-Key``, a
             WebSocket's ``?token=``, a browser session's cookie; empty without credentials.
    secret:  the key, token, password or cookie; never logged.
    user:    the user name of a Basic password.
    origin:  the ``Origin`` header; browsers send it with modifying requests.
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
        """Whether there are any credentials."""
        return bool(self.scheme)


@dataclass(frozen=True, slots=True)
class Principal:
    """The identity of a caller.

    id:     immutable and never reused; ownership refers to it.
    name:   for display.
    kind:   "key", "user", "anonymous", or a plugin's own kind.
    scopes: its permissions: a frozenset of names of ``SCOPES``.
    grant:  a non-secret id of the credentials used, for ``sign_out``.
    until:  their expiry in Unix seconds; a browser session started with them ends with them.
    background: whether its requests can wait until models have served all others.
    count:  called for each further request of a browser session it started, which uses a cookie
            instead of the key, so that ``authenticate`` is not called. Raises at a rate limit.

    Raises ``TypeError`` for scopes that are not a frozenset (of a string every character would
    count), ``ValueError`` for an unknown scope.
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
        """Reject scopes that would grant more than intended."""
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
        """Whether it has that id or grant; False for an empty one."""
        return identity != "" and identity in {self.id, self.grant}

    def may(self, needs: str | None) -> bool:
        """Whether it has the scope that a route requires; None requires every scope."""
        if needs is None:
            return self.unrestricted
        return needs == ANYBODY or needs in self.scopes or "admin" in self.scopes


ANONYMOUS = Principal("anonymous", "anonymous", "anonymous", EVERYTHING)
"""The principal of every caller of a server without keys."""


def key_id(key: str) -> str:
    """Return the id of an API key's principal: it distinguishes keys without revealing them."""
    return "key:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:12]
