"""The server's state between its start and its end."""

from __future__ import annotations

import asyncio


class Lifecycle:
    """Whether the server listens, and where; whether it is shutting down.

    ``stopping`` is set at the start of a shutdown, when no new work is accepted. ``active`` counts
    pending requests. ``deadline`` limits all waits of the shutdown, on the loop's clock.
    """

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.active = 0
        self.deadline: float | None = None
        self._listening = asyncio.Event()
        self._url = ""

    @property
    def is_draining(self) -> bool:
        """Whether the server is shutting down."""
        return self.stopping.is_set()

    def set_listening(self, url: str) -> None:
        """Record that the server listens, with the base URL for this machine."""
        self._url = url
        self._listening.set()

    async def address(self) -> str:
        """Return the base URL for this machine, once the server listens."""
        await self._listening.wait()
        return self._url
