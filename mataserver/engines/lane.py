"""The lane of quick requests: whoever reads a request also answers it.

A model that answers in no time would spend more on handing requests from thread to thread than on
its work. Here the model's own thread reads the socket and does each request from end to end. Only
what has to wait meanwhile is decoded by others beside it.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from typing import TYPE_CHECKING

from mataserver.engines import wire
from mataserver.engines.decoders import DecodedBatch, Decoders

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.engines.host import Decoded
    from mataserver.engines.line import Line
    from mataserver.engines.work import Job


class Lane:
    """Takes batches from the socket to ``finish``, which runs the model and answers.

    ``decode`` also runs in at most ``decoders`` threads beside the caller's; neither may raise.
    """

    def __init__(
        self,
        line: Line,
        decode: Callable[[Job], Decoded],
        finish: Callable[[int, list[Decoded]], None],
        decoders: int,
    ) -> None:
        self._line = line
        self._finish = finish
        self._decoders = Decoders(decode, self._ring, decoders)
        self._fresh: deque[DecodedBatch] = deque()
        self._owed = 0
        self._asleep = False
        self._bell, self._rope = socket.socketpair()
        self._bell.settimeout(0.0)
        self._ringing, self._anything = select.poll(), select.poll()
        self._ringing.register(self._bell, select.POLLIN)
        self._anything.register(self._bell, select.POLLIN)
        self._anything.register(line.sock, select.POLLIN)

    def step(self) -> wire.Received | None:
        """Do one batch, or wait for one.

        Returns a message of another kind once everything before it is answered.
        """
        if not self._owed and not self._line.waiting:  # who read before may have left something
            self._sleep(self._anything)
        if not self._line.fetch():
            os._exit(0)  # the server is gone
        other = self._take()
        if other is not None:
            self.drain()
        elif not self._advance() and self._owed:
            self._sleep(self._anything)
        return other

    def drain(self) -> None:
        """Answer everything that was taken."""
        while self._owed:
            if not self._advance():
                self._sleep(self._ringing)

    def close(self) -> None:
        """Give the bell back. Nothing may be under way."""
        self._bell.close()
        self._rope.close()

    def _take(self) -> wire.Received | None:
        """Take what was read, up to a message of another kind."""
        while (received := self._line.take()) is not None:
            message = received.header.message
            if not isinstance(message, wire.Infer):
                return received
            self._fresh.append(DecodedBatch(message.id, self._line.jobs(received)))
            self._owed += 1
        return None

    def _advance(self) -> bool:
        """Do one batch; False when there is none but those that others decode."""
        batch = self._decoders.next() or (self._fresh.popleft() if self._fresh else None)
        while self._fresh and self._decoders.limit:
            self._decoders.share(self._fresh.popleft())
        if batch is None:
            return False
        self._owed -= 1
        if not self._line.refused(batch.request):
            self._finish(batch.request, self._decoders.complete(batch))
        return True

    def _sleep(self, until: select.poll) -> None:
        """Wait for the bell, or also for the socket."""
        self._asleep = True
        if not self._decoders.decoded:  # else the bell was not rung for it
            for descriptor, _ in until.poll():
                if descriptor == self._bell.fileno():
                    self._bell.recv(64)
        self._asleep = False

    def _ring(self) -> None:
        if self._asleep:
            self._rope.send(b"x")
