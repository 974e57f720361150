"""Where a server is between its start and its end."""

from __future__ import annotations

import asyncio


class Lifecycle:
    """Whether the server listens, and where; whether it shuts down.

    ``stopping`` is set when it begins to: it takes no new work then. ``active`` counts the requests
    that are being answered. Nothing of its end is waited for beyond ``deadline``, by the loop's
    clock.
    """

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.active = 0
        self.deadline: float | None = None
        self._listening = asyncio.Event()
        self._url = ""

    @property
    def draining(self) -> bool:
        """Whether the server shuts down."""
        return self.stopping.is_set()

    def listens(self, url: str) -> None:
        """Note that the server listens, and the base URL by which this machine reaches it."""
        self._url = url
        self._listening.set()

    async def address(self) -> str:
        """Return the base URL by which this machine reaches the server, once it listens."""
        await self._listening.wait()
        return self._url
