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

HIGH, LOW = 1 << 16, 1 << 14
"""High and low water marks of unread bytes, at which the writer pauses and resumes."""
PIPE = "pipe"
"""Name of the extra info that identifies such a transport."""
PEER = ("127.0.0.1", 0)

P = TypeVar("P", bound=asyncio.Protocol)


class Pipe(asyncio.Transport):
    """One side of a connection; ``join`` connects two."""

    def __init__(self, protocol: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"peername": PEER, "sockname": PEER, PIPE: True})
        self._protocol = protocol
        self._loop = loop
        self._other = self
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._high, self._low = HIGH, LOW
        self._delivery: asyncio.Handle | None = None
        self._context = contextvars.Context()
        self._reading = True
        self._held_up = self._ended = self._closing = self._lost = False

    def join(self, other: Pipe) -> None:
        """Connect two sides.

        Each is called in a context of its own, like a socket's: its tasks must not inherit the
        context of whoever connects or writes.
        """
        self._other, other._other = other, self
        for side in (self, other):
            side._context.run(side._protocol.connection_made, side)  # noqa: SLF001

    # writing

    def write(self, data: Any) -> None:
        """Write bytes to the other side."""
        if self._closing or self._ended or not data:
            return
        self._other._take(data if isinstance(data, bytes) else bytes(data))  # noqa: SLF001
        self._hold_up()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Write bytes to the other side, without joining them."""
        for data in list_of_data:
            self.write(data)

    def write_eof(self) -> None:
        """Close the writing end; reading continues."""
        if not self._ended:
            self._ended = True
            self._other._deliver_soon()  # noqa: SLF001

    def can_write_eof(self) -> bool:
        """Return True: half-closing is supported."""
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the water marks of unread bytes."""
        self._high = high if high is not None else (HIGH if low is None else 4 * low)
        self._low = low if low is not None else self._high // 4
        self._hold_up()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the water marks, the lower one first."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes not yet read by the other side."""
        return self._other._size  # noqa: SLF001

    def _hold_up(self) -> None:
        if not self._held_up and self._other._size > self._high and not self._lost:  # noqa: SLF001
            self._held_up = True
            self._protocol.pause_writing()

    def _go_on(self) -> None:
        if self._held_up and self._other._size <= self._low and not self._lost:  # noqa: SLF001
            self._held_up = False
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

    def _take(self, data: bytes) -> None:
        if not self._closing:
            self._waiting.append(data)
            self._size += len(data)
            self._deliver_soon()

    def _deliver_soon(self) -> None:
        if self._delivery is None and not self._lost:
            self._delivery = self._loop.call_soon(self._deliver, context=self._context)

    def _deliver(self) -> None:
        self._delivery = None
        try:
            while self._waiting and self.is_reading():
                data = self._waiting.popleft()
                self._size -= len(data)
                self._protocol.data_received(data)
        except BaseException:
            self.abort()  # like a socket's: the event loop reports the exception
            raise
        self._other._go_on()  # noqa: SLF001
        if self._other._ended and not self._waiting and self.is_reading():  # noqa: SLF001
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
            self._lose_soon(None)

    def abort(self) -> None:
        """Close both sides, discarding undelivered data."""
        self._closing = self._ended = True
        self._lose_soon(None)
        other = self._other
        if not other._lost:  # noqa: SLF001
            other._closing = other._ended = True  # noqa: SLF001
            other._lose_soon(ConnectionResetError("the other side is gone"))  # noqa: SLF001

    def _lose_soon(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._loop.call_soon(self._lose, error, context=self._context)

    def _lose(self, error: Exception | None) -> None:
        self._waiting.clear()
        self._size = 0
        self._protocol.connection_lost(error)
        self._other._go_on()  # noqa: SLF001


class Doorway:
    """Connects in-process clients to the protocol from ``accept()``, once the server listens."""

    def __init__(self) -> None:
        self.accept: Callable[[], asyncio.Protocol] | None = None

    def connect(self, factory: Callable[[], P]) -> P:
        """Connect a protocol to the server. Raises ``Unavailable``."""
        if self.accept is None:
            raise Unavailable("The server does not listen yet")
        loop, protocol = asyncio.get_running_loop(), factory()
        Pipe(protocol, loop).join(Pipe(self.accept(), loop))
        return protocol
