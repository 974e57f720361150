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
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web

from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from mataserver.principals import Principal

T = TypeVar("T")

NO_MORE = "what you showed counts no more"
REMEMBERED = 1024
"""Revocations that are remembered for requests that do not wait yet."""


class GrantEnded(MataError):
    """401: the credentials have been revoked or have expired."""

    status = 401


class Grants:
    """The ongoing operations by principal, with callbacks that end them."""

    def __init__(self) -> None:
        self._held: dict[Callable[[], None], Principal] = {}
        self._ended: deque[str] = deque(maxlen=REMEMBERED)
        self.revocations = 0

    def attach(self, request: web.Request) -> None:
        """Let a request that has just been authenticated learn of its revocation."""
        request[GRANTS] = self
        request[ADMITTED] = self.revocations

    @contextlib.contextmanager
    def held(self, principal: Principal | None, end: Callable[[], None]) -> Iterator[None]:
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
        self._held[end] = principal
        try:
            yield
        finally:
            del self._held[end]
            if timer is not None:
                timer.cancel()

    def end_all(self, identity: str) -> None:
        """End all operations of a principal or a grant."""
        self.revocations += 1
        self._ended.append(identity)
        for end, principal in list(self._held.items()):
            if principal.rests_on(identity):
                end()

    def ended_since(self, principal: Principal, revocations: int) -> bool:
        """Whether a principal was revoked after so many ``revocations``.

        True if more came since than are remembered.
        """
        since = self.revocations - revocations
        if since > len(self._ended):
            return True
        return any(principal.rests_on(each) for each in islice(reversed(self._ended), since))


GRANTS: web.RequestKey[Grants] = web.RequestKey("grants")
"""All ongoing operations, in an authenticated request."""
ADMITTED: web.RequestKey[int] = web.RequestKey("admitted", int)
"""The number of revocations when a request was authenticated."""
_HELD: web.RequestKey[bool] = web.RequestKey("held", bool)


def held(
    request: web.Request, principal: Principal | None, end: Callable[[], None]
) -> contextlib.AbstractContextManager[None]:
    """Call ``end()`` as ``Grants.held`` does; never without authentication."""
    request[_HELD] = True
    grants = request.get(GRANTS)
    return contextlib.nullcontext() if grants is None else grants.held(principal, end)


def is_held(request: web.Request) -> bool:
    """Whether the handler ends by itself once the credentials become invalid."""
    return _HELD in request


class LateGrant:
    """The grant of a request whose body comes after its head, where no task waits for it."""

    __slots__ = ("_ended", "_holding")

    def __init__(self, grants: Grants, principal: Principal) -> None:
        self._ended = False
        self._holding = contextlib.ExitStack()
        self._holding.enter_context(grants.held(principal, self._end))

    def refusal(self) -> GrantEnded | None:
        """Return the error to answer with, if the credentials have become invalid."""
        return _ended() if self._ended else None

    def release(self) -> None:
        """Stop watching."""
        self._holding.close()

    def _end(self) -> None:
        self._ended = True


class GrantedTurns:
    """Awaits one operation after another, until it is ended."""

    def __init__(self) -> None:
        self._over = False
        self._waiting: asyncio.Timeout | None = None

    def check(self) -> None:
        """Raise ``GrantEnded`` if it was ended."""
        if self._over:
            raise _ended()

    def end(self) -> None:
        """Stop the current and any further wait."""
        self._over = True
        if self._waiting is not None:
            self._waiting.reschedule(0.0)

    async def of(self, work: Awaitable[T]) -> T:
        """Return the result of ``work``. Raises ``GrantEnded``."""
        try:
            async with asyncio.timeout(0.0 if self._over else None) as self._waiting:
                return await work
        except TimeoutError:
            if self._waiting is not None and self._waiting.expired():
                raise _ended() from None
            raise
        finally:
            self._waiting = None


def check(request: web.Request, principal: Principal | None) -> None:
    """Raise ``GrantEnded`` if the caller was revoked since the request was authenticated.

    A handler may wait for something else before it reads the body.
    """
    grants = request.get(GRANTS)
    if grants and principal and grants.ended_since(principal, request[ADMITTED]):
        raise _ended()


@contextlib.contextmanager
def turns_of(request: web.Request, principal: Principal | None) -> Iterator[GrantedTurns]:
    """Create the turns that wait for the rest of a request while its credentials are valid."""
    check(request, principal)
    turns, grants = GrantedTurns(), request.get(GRANTS)
    with contextlib.nullcontext() if grants is None else grants.held(principal, turns.end):
        yield turns


def _ended() -> GrantEnded:
    return GrantEnded(f"{NO_MORE[0].upper()}{NO_MORE[1:]}")
