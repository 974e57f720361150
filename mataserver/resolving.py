"""Names of hosts, resolved in threads of their own.

The system's resolver waits for seconds for a DNS server that does not answer, and nothing can stop
it. In the event loop's own threads, which are few, some such names would hold up every large body.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any, TypeVar, cast

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.abc import ResolveResult

T = TypeVar("T")

MOST = 32
"""Names that are resolved at a time: with more, each waits for one that is done."""


class SystemResolver(AbstractResolver):
    """Asks as the system's programs do. Whoever stops waiting leaves a thread until it is told."""

    def __init__(self) -> None:
        self._system = ThreadedResolver(cast("asyncio.AbstractEventLoop", _Asking()))

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name. Raises ``OSError``."""
        return await self._system.resolve(host, port, family)

    async def close(self) -> None:
        """Close nothing."""


class _Asking:
    """What the resolver needs of an event loop."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(MOST)

    async def getaddrinfo(self, host: str, port: int, **options: Any) -> Any:
        """Return the addresses of a name."""
        return await self._asked(lambda: socket.getaddrinfo(host, port, **options))

    async def getnameinfo(self, address: Any, flags: int) -> Any:
        """Return an address of IPv6 as text, with its scope."""
        return await self._asked(lambda: socket.getnameinfo(address, flags))

    async def _asked(self, ask: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def told(found: T | None, error: Exception | None) -> None:
            self._places.release()  # not before: who waits no more has not stopped the thread
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(cast("T", found))

        def run() -> None:
            found, error = None, None
            try:
                found = ask()
            except Exception as caught:  # noqa: BLE001 - raised where it is waited for
                error = caught
            try:
                loop.call_soon_threadsafe(told, found, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

        await self._places.acquire()
        try:
            # A daemon: the end of the server waits for no DNS server.
            threading.Thread(target=run, name="resolve", daemon=True).start()
        except RuntimeError as error:
            self._places.release()
            raise OSError("no thread can be started") from error
        return await answer
