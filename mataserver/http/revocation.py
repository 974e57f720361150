"""Long-lived operations on behalf of a caller, ended when the credentials become invalid.

A request is authenticated once, on arrival. For sockets and event streams, which may last hours,
and for a body that arrives later than its head, that is not enough: a key may be revoked, a user
removed, a token may expire.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from aiohttp import web

from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from mataserver.principals import Principal

T = TypeVar("T")

REVOKED_REASON = "what you showed counts no more"
MAX_REMEMBERED = 1024
"""Revocations that are remembered for requests that do not wait yet."""


class CredentialsRevoked(MataError):
    """401: the credentials have been revoked or have expired."""

    status = 401

    def __init__(self) -> None:
        """State it."""
        super().__init__(f"{REVOKED_REASON[0].upper()}{REVOKED_REASON[1:]}")


class Revocations:
    """The ongoing operations by principal, with callbacks that end them."""

    def __init__(self) -> None:
        self._watched: dict[Callable[[], None], Principal] = {}
        self._revoked: deque[str] = deque(maxlen=MAX_REMEMBERED)
        self.total = 0

    def attach(self, request: web.Request, principal: Principal | None) -> None:
        """Let a request that has just been authenticated learn of its revocation."""
        request[_GRANT] = _Grant(self, principal, self.total)

    @contextlib.contextmanager
    def watch(self, principal: Principal | None, end: Callable[[], None]) -> Iterator[None]:
        """Call ``end()``, within the context, once a principal's credentials become invalid.

        Each ``end`` must be a distinct object; without a principal it is never called.
        """
        if principal is None:
            yield
            return
        timer = None
        if principal.until is not None:
            left = max(0.0, principal.until - time.time())
            timer = asyncio.get_running_loop().call_later(left, end)
        self._watched[end] = principal
        try:
            yield
        finally:
            del self._watched[end]
            if timer is not None:
                timer.cancel()

    @contextlib.contextmanager
    def watched(self, principal: Principal | None) -> Iterator[RevocableWait]:
        """Create the turns that wait for something while a principal's credentials are valid."""
        wait = RevocableWait()
        with self.watch(principal, wait.end):
            yield wait

    def end_all(self, identity: str) -> None:
        """End all operations of a principal or a grant."""
        self.total += 1
        self._revoked.append(identity)
        for end, principal in list(self._watched.items()):
            if principal.rests_on(identity):
                end()

    def check(self, principal: Principal | None, seen: int) -> None:
        """Raise ``CredentialsRevoked`` if a principal was revoked after so many ``total``."""
        if principal is not None and self.is_revoked_since(principal, seen):
            raise CredentialsRevoked

    def is_revoked_since(self, principal: Principal, seen: int) -> bool:
        """Whether a principal was revoked after so many ``total``.

        True if more came since than are remembered.
        """
        since = self.total - seen
        if since > len(self._revoked):
            return True
        return any(principal.rests_on(each) for each in islice(reversed(self._revoked), since))


class _Grant(NamedTuple):
    """The caller of an authenticated request, and the ``total`` of revocations until then."""

    grants: Revocations
    principal: Principal | None
    seen: int


_GRANT: web.RequestKey[_Grant] = web.RequestKey("grant", _Grant)
_WATCHED: web.RequestKey[bool] = web.RequestKey("held", bool)


def watch_caller(
    request: web.Request, end: Callable[[], None]
) -> contextlib.AbstractContextManager[None]:
    """Call ``end()`` as ``Revocations.watch`` does; never without authentication."""
    grant = request.get(_GRANT)
    return contextlib.nullcontext() if grant is None else grant.grants.watch(grant.principal, end)


@contextlib.contextmanager
def watch_revocation(request: web.Request, end: Callable[[], None]) -> Iterator[None]:
    """Call ``end()`` as ``watch_caller`` does, for a handler that then ends by itself.

    At once if the credentials were revoked while the handler waited for something else.
    """
    request[_WATCHED] = True
    with watch_caller(request, end):
        try:
            check_not_revoked(request)
        except CredentialsRevoked:
            end()
        yield


def is_watched(request: web.Request) -> bool:
    """Whether the handler ends by itself once the credentials become invalid."""
    return _WATCHED in request


class LateGrant:
    """The grant of a request whose body comes after its head, where no task waits for it."""

    __slots__ = ("_is_revoked", "_watching")

    def __init__(self, grants: Revocations, principal: Principal | None) -> None:
        self._is_revoked = False
        self._watching = contextlib.ExitStack()
        self._watching.enter_context(grants.watch(principal, self._end))

    def release(self) -> CredentialsRevoked | None:
        """Stop watching; return the error to answer with if the credentials became invalid."""
        self._watching.close()
        return CredentialsRevoked() if self._is_revoked else None

    def _end(self) -> None:
        self._is_revoked = True


class RevocableWait:
    """Awaits one operation after another, until it is ended."""

    def __init__(self) -> None:
        self._is_ended = False
        self._timeout: asyncio.Timeout | None = None

    def check(self) -> None:
        """Raise ``CredentialsRevoked`` if it was ended."""
        if self._is_ended:
            raise CredentialsRevoked

    def end(self) -> None:
        """Stop the current and any further wait, once: one that is being stopped may take a while.

        A key and its user may be revoked one after the other, and asyncio refuses a second time
        (``RuntimeError``), which would keep all others who rest on them.
        """
        if self._is_ended:
            return
        self._is_ended = True
        if self._timeout is not None:
            self._timeout.reschedule(0.0)

    async def for_result(self, work: Awaitable[T]) -> T:
        """Return the result of ``work``. Raises ``CredentialsRevoked``."""
        try:
            async with asyncio.timeout(0.0 if self._is_ended else None) as self._timeout:
                return await work
        except TimeoutError:
            if self._timeout is not None and self._timeout.expired():
                raise CredentialsRevoked from None
            raise
        finally:
            self._timeout = None


def check_not_revoked(request: web.Request) -> None:
    """Raise ``CredentialsRevoked`` if the caller was revoked since the request was authenticated.

    A handler may wait for something else before it reads the body.
    """
    if (grant := request.get(_GRANT)) is not None:
        grant.grants.check(grant.principal, grant.seen)


@contextlib.contextmanager
def revocable_wait(request: web.Request) -> Iterator[RevocableWait]:
    """Create the turns that wait for the rest of a request while its credentials are valid."""
    check_not_revoked(request)
    wait = RevocableWait()
    with watch_caller(request, wait.end):
        yield wait
