"""What was written to a client that has not read it yet.

It lies in memory until it is read: it counts as in flight, and a client that leaves it unread is
given up. Any answer may be left so: a whole one, a file, events, a WebSocket's messages.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from mataserver.contract.bodies import Share

if TYPE_CHECKING:
    from asyncio import Transport

BEGINS = 65_536
"""Bytes from which on a transport counts as full (asyncio's high-water mark): with less than so
many nobody waits for the client."""
STEP = 1_000_000
"""Bytes that a client reads at least in each while: a slow line carries that, who reads a byte at a
time keeps what it was sent for no longer than that takes."""


class Portion(Share, Protocol):
    """A share of the budget that also counts what is there whether there is room or not."""

    def hold(self, count: int) -> None:
        """Have ``count`` bytes counted that are in memory already."""
        ...


class Strangers:
    """What clients without a key have not read: ``limit`` bytes of all of them.

    Beyond it whoever has waited longest is given up, so that they take neither the memory nor the
    room of others.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._held: dict[Backlog, int] = {}
        self._size = 0

    def add(self, backlog: Backlog, size: int) -> None:
        """Note what one has not read."""
        self._held[backlog] = size
        self._size += size
        while self._size > self._limit and len(self._held) > 1:
            next(iter(self._held)).give_up()

    def remove(self, backlog: Backlog) -> None:
        """Note that one has read it, or is gone."""
        self._size -= self._held.pop(backlog, 0)


class Backlog:
    """What one connection has not read; ``patience`` is the while in seconds."""

    __slots__ = ("_left", "_patience", "_portion", "_strangers", "_timer", "_transport")

    def __init__(self, portion: Portion, patience: float, strangers: Strangers) -> None:
        self._portion = portion
        self._patience = patience
        self._strangers = strangers
        self._transport: Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0

    def begin(self, transport: Transport, *, stranger: bool = False) -> None:
        """Note that a transport is full, perhaps with what nobody known has asked for."""
        self.end()
        self._transport = transport
        self._left = transport.get_write_buffer_size()
        self._portion.hold(self._left)
        self._wait()
        if stranger:
            self._strangers.add(self, self._left)

    def give_up(self) -> None:
        """End the connection: who waits for it to be read is told that it is gone."""
        if self._transport is not None:
            self._transport.abort()
        self.end()

    def end(self) -> None:
        """Note that the client has read nearly all of it, or is gone."""
        self._portion.give_back()
        self._strangers.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._transport = None

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._patience, self._look)

    def _look(self) -> None:
        """Give the client up unless it has read enough since the last look."""
        transport, before = self._transport, self._left
        if transport is None:
            return
        self._left = transport.get_write_buffer_size()
        if before - self._left < STEP:
            self.give_up()
        else:
            self._wait()
