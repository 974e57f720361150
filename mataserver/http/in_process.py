"""In-process connections: pairs of transports, each of which delivers to the other.

They behave like sockets (PEP 3156): nothing is delivered within a write call, back-pressure pauses
the writer, and each side is notified of the other's end.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from mataserver.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HIGH_WATER, LOW_WATER = 1 << 16, 1 << 14
"""High and low water marks of unread bytes, at which the writer pauses and resumes."""
IN_PROCESS = "pipe"
"""Name of the extra info that identifies such a transport."""
PEER = ("127.0.0.1", 0)

P = TypeVar("P", bound=asyncio.Protocol)


class InProcessTransport(asyncio.Transport):
    """One side of a connection; ``connect_to`` connects two."""

    def __init__(self, protocol: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"peername": PEER, "sockname": PEER, IN_PROCESS: True})
        self._protocol = protocol
        self._loop = loop
        self._peer = self
        self._buffer: deque[bytes] = deque()
        self._size = 0
        self._high, self._low = HIGH_WATER, LOW_WATER
        self._delivery: asyncio.Handle | None = None
        self._context = contextvars.Context()
        self._reading = True
        self._writer_paused = self._eof_written = self._closing = self._lost = False

    def connect_to(self, other: InProcessTransport) -> None:
        """Connect two sides.

        Each is called in a context of its own, like a socket's: its tasks must not inherit the
        context of whoever connects or writes.
        """
        self._peer, other._peer = other, self
        for side in (self, other):
            side._context.run(side._protocol.connection_made, side)  # noqa: SLF001

    # writing

    def write(self, data: Any) -> None:
        """Write bytes to the other side."""
        if self._closing or self._eof_written or not data:
            return
        self._peer._receive(data if isinstance(data, bytes) else bytes(data))  # noqa: SLF001
        self._pause_writer()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Write bytes to the other side, without joining them."""
        for data in list_of_data:
            self.write(data)

    def write_eof(self) -> None:
        """Close the writing end; reading continues."""
        if not self._eof_written:
            self._eof_written = True
            self._peer._deliver_soon()  # noqa: SLF001

    def can_write_eof(self) -> bool:
        """Return True: half-closing is supported."""
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the water marks of unread bytes."""
        self._high = high if high is not None else (HIGH_WATER if low is None else 4 * low)
        self._low = low if low is not None else self._high // 4
        self._pause_writer()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the water marks, the lower one first."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes not yet read by the other side."""
        return self._peer._size  # noqa: SLF001

    def _pause_writer(self) -> None:
        if not self._writer_paused and self._peer._size > self._high and not self._lost:  # noqa: SLF001
            self._writer_paused = True
            self._protocol.pause_writing()

    def _resume_writer(self) -> None:
        if self._writer_paused and self._peer._size <= self._low and not self._lost:  # noqa: SLF001
            self._writer_paused = False
            self._protocol.resume_writing()

    # reading

    def is_reading(self) -> bool:
        """Whether received data is delivered."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Pause delivery."""
        self._reading = False

    def resume_reading(self) -> None:
        """Resume delivery."""
        self._reading = True
        self._deliver_soon()

    def _receive(self, data: bytes) -> None:
        if not self._closing:
            self._buffer.append(data)
            self._size += len(data)
            self._deliver_soon()

    def _deliver_soon(self) -> None:
        if self._delivery is None and not self._lost:
            self._delivery = self._loop.call_soon(self._deliver, context=self._context)

    def _deliver(self) -> None:
        self._delivery = None
        try:
            while self._buffer and self.is_reading():
                data = self._buffer.popleft()
                self._size -= len(data)
                self._protocol.data_received(data)
        except BaseException:
            self.abort()  # like a socket's: the event loop reports the exception
            raise
        self._peer._resume_writer()  # noqa: SLF001
        if self._peer._eof_written and not self._buffer and self.is_reading():  # noqa: SLF001
            self._reading = False
            if not self._protocol.eof_received():
                self.close()

    # closing

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol that receives the data."""
        return self._protocol

    def is_closing(self) -> bool:
        """Whether it is closed or closing."""
        return self._closing

    def close(self) -> None:
        """Stop reading; written data is still delivered to the other side."""
        if not self._closing:
            self._closing = True
            self.write_eof()
            self._schedule_loss(None)

    def abort(self) -> None:
        """Close both sides, discarding undelivered data."""
        self._closing = self._eof_written = True
        self._schedule_loss(None)
        other = self._peer
        if not other._lost:  # noqa: SLF001
            other._closing = other._eof_written = True  # noqa: SLF001
            other._schedule_loss(ConnectionResetError("the other side is gone"))  # noqa: SLF001

    def _schedule_loss(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._loop.call_soon(self._lose_connection, error, context=self._context)

    def _lose_connection(self, error: Exception | None) -> None:
        self._buffer.clear()
        self._size = 0
        self._protocol.connection_lost(error)
        self._peer._resume_writer()  # noqa: SLF001


class InProcessConnector:
    """Connects in-process clients to the protocol from ``accept()``, once the server listens."""

    def __init__(self) -> None:
        self.accept: Callable[[], asyncio.Protocol] | None = None

    def connect(self, factory: Callable[[], P]) -> P:
        """Connect a protocol to the server. Raises ``Unavailable``."""
        if self.accept is None:
            raise Unavailable("The server does not listen yet")
        loop, protocol = asyncio.get_running_loop(), factory()
        InProcessTransport(protocol, loop).connect_to(InProcessTransport(self.accept(), loop))
        return protocol
