"""What goes on for long in somebody's name, and ends when what they showed counts no more.

A request is judged once, when it comes. Of sockets and of events that may go on for hours that is
not enough, nor of a body that comes later than its head: a key is revoked, a user removed, a
token's time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web

from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from mataserver.principals import Principal

T = TypeVar("T")

NO_MORE = "what you showed counts no more"


class GrantEnded(MataError):
    """401: what was shown counted, and does no more."""

    status = 401


class Grants:
    """Who has something going on, each with what ends it."""

    def __init__(self) -> None:
        self._held: dict[Callable[[], None], Principal] = {}

    @contextlib.contextmanager
    def held(self, principal: Principal | None, end: Callable[[], None]) -> Iterator[None]:
        """Have ``end()`` called, within the context, once what a principal showed is over.

        ``end`` is another one each time; nobody's is never called.
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
        """End what a principal or a grant has going on that counts no more."""
        for end, principal in list(self._held.items()):
            if principal.rests_on(identity):
                end()


GRANTS: web.RequestKey[Grants] = web.RequestKey("grants")
"""What is going on in everybody's name, in a request that was judged."""
_HELD: web.RequestKey[bool] = web.RequestKey("held", bool)


def held(
    request: web.Request, principal: Principal | None, end: Callable[[], None]
) -> contextlib.AbstractContextManager[None]:
    """Have ``end()`` called as ``Grants.held`` does; never where nobody was judged."""
    request[_HELD] = True
    grants = request.get(GRANTS)
    return contextlib.nullcontext() if grants is None else grants.held(principal, end)


def is_held(request: web.Request) -> bool:
    """Whether what answers a request ends in its own way once what was shown is over."""
    return _HELD in request


class GrantedTurns:
    """Waits for one thing after the other, until it is ended."""

    def __init__(self) -> None:
        self._over = False
        self._waiting: asyncio.Timeout | None = None

    def check(self) -> None:
        """Raise ``GrantEnded`` once it was ended."""
        if self._over:
            raise _ended()

    def end(self) -> None:
        """Wait for nothing any more."""
        self._over = True
        if self._waiting is not None:
            self._waiting.reschedule(0.0)

    async def of(self, work: Awaitable[T]) -> T:
        """Return what ``work`` gives. Raises ``GrantEnded``."""
        try:
            async with asyncio.timeout(0.0 if self._over else None) as self._waiting:
                return await work
        except TimeoutError:
            if self._waiting is not None and self._waiting.expired():
                raise _ended() from None
            raise
        finally:
            self._waiting = None


@contextlib.contextmanager
def turns_of(request: web.Request, principal: Principal | None) -> Iterator[GrantedTurns]:
    """Give what waits for what a request is still to send, until what was shown counts no more."""
    turns, grants = GrantedTurns(), request.get(GRANTS)
    with contextlib.nullcontext() if grants is None else grants.held(principal, turns.end):
        yield turns


def _ended() -> GrantEnded:
    return GrantEnded(f"{NO_MORE[0].upper()}{NO_MORE[1:]}")
