"""Output that the client has not read yet.

It is kept in memory until it is read: it counts as in flight, and a client that does not read is
disconnected. This applies to all answers: plain ones, files, events, WebSocket messages.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import Transport

    from mataserver.http.budget import BudgetShare

MIN_READ_BYTES = 1_000_000
"""Bytes that a client must read in each interval: possible on a slow line, while one that reads a
byte at a time is disconnected."""


class AnonymousOutput:
    """Unread output of clients without a key: at most ``limit`` bytes in total.

    Beyond it the one that has waited longest is disconnected, so that they do not use up the memory
    and the room of others.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._held: dict[UnreadOutput, int] = {}
        self._size = 0

    def add(self, output: UnreadOutput, size: int) -> None:
        """Add a connection's unread output."""
        self._held[output] = size
        self._size += size
        while self._size > self._limit and len(self._held) > 1:
            next(iter(self._held)).abort()

    def remove(self, output: UnreadOutput) -> None:
        """Remove a connection that has read its output, or is closed."""
        self._size -= self._held.pop(output, 0)


class UnreadOutput:
    """One connection's unread output; ``patience`` is the interval in seconds."""

    __slots__ = ("_anonymous", "_left", "_patience", "_share", "_timer", "_transport")

    def __init__(self, share: BudgetShare, patience: float, anonymous: AnonymousOutput) -> None:
        self._share = share
        self._patience = patience
        self._anonymous = anonymous
        self._transport: Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0

    def begin(self, transport: Transport, *, anonymous: bool = False) -> None:
        """Start when a transport is full; ``anonymous`` if the caller is unknown."""
        self.end()
        self._transport = transport
        self._left = transport.get_write_buffer_size()
        self._share.hold(self._left)
        self._schedule_check()
        if anonymous:
            self._anonymous.add(self, self._left)

    def abort(self) -> None:
        """Abort the connection; waiting writers get an error."""
        if self._transport is not None:
            self._transport.abort()
        self.end()

    def end(self) -> None:
        """Stop: the client has read nearly everything, or is gone."""
        self._share.give_back()
        self._anonymous.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._transport = None

    def _schedule_check(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._patience, self._check_progress)

    def _check_progress(self) -> None:
        """Disconnect the client unless it has read enough since the last check."""
        transport, before = self._transport, self._left
        if transport is None:
            return
        self._left = transport.get_write_buffer_size()
        if before - self._left < MIN_READ_BYTES:
            self.abort()
        else:
            self._schedule_check()
