"""Host name resolution in dedicated threads.

The system's resolver blocks for seconds on an unresponsive DNS server, and cannot be cancelled. In
the event loop's few default threads, some such names would block every large body.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar, cast

from aiohttp import ThreadedResolver

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MAX_CONCURRENT = 32
"""Maximum concurrent resolutions; more are queued."""


class SystemResolver(ThreadedResolver):
    """Resolves by the system's resolver. A cancelled caller leaves a thread until it returns."""

    def __init__(self) -> None:
        super().__init__(cast("asyncio.AbstractEventLoop", _ThreadedLookups()))


class _ThreadedLookups:
    """The part of the event loop interface that the resolver uses."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def getaddrinfo(self, host: str, port: int, **options: Any) -> Any:
        """Return the addresses of a name."""
        return await self._run_in_thread(lambda: socket.getaddrinfo(host, port, **options))

    async def getnameinfo(self, address: Any, flags: int) -> Any:
        """Return an IPv6 address as text, with its scope."""
        return await self._run_in_thread(lambda: socket.getnameinfo(address, flags))

    async def _run_in_thread(self, lookup: Callable[[], T]) -> T:
        loop, answer = asyncio.get_running_loop(), Future[T]()
        answer.set_running_or_notify_cancel()  # a cancelled caller does not stop the thread

        def run() -> None:
            try:
                answer.set_result(lookup())
            except Exception as error:  # noqa: BLE001 - reraised in the caller
                answer.set_exception(error)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._slots.release)

        await self._slots.acquire()
        try:
            # A daemon thread: the exit of the server must not wait for a DNS server.
            threading.Thread(target=run, name="resolve", daemon=True).start()
        except RuntimeError as error:
            self._slots.release()
            raise OSError("no thread can be started") from error
        return await asyncio.wrap_future(answer)
