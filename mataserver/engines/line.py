"""The worker's side of the socket and of the shared memory."""

from __future__ import annotations

import os
import threading
from itertools import chain
from typing import TYPE_CHECKING

from mataserver.engines import single, wire
from mataserver.engines.work import Job
from mataserver.engines.worker_errors import Failure

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from mataserver.engines.arena import Incoming
    from mataserver.engines.work import Body, Outcome

DROPPED = Failure(503, "The request was given up before it was answered")


class Line:
    """A worker's connection. One thread at a time may read, any thread may write."""

    def __init__(self, sock: socket.socket, memory: Incoming | None) -> None:
        self.sock = sock
        self._memory = memory
        self._reader = wire.Reader(sock)
        self._lock = threading.Lock()
        self._owed: set[int] = set()
        self._dropped: set[int] = set()

    def fetch(self) -> bool:
        """Read what is available without blocking; False once the server has closed the socket."""
        return self._reader.fetch()

    def take(self) -> wire.Received | list[Job] | None:
        """Return the next message that was read, None if there is none.

        A batch is returned as its jobs, whose images may lie in shared memory.
        """
        while (received := self._reader.take()) is not None:
            if isinstance(received, memoryview):
                jobs = [single.read_order(received, self._memory)]
            elif isinstance(message := received.header.message, wire.Infer):
                jobs = self._jobs(message, received)
            elif isinstance(message, wire.Drop):
                self._drop(message.id)
                continue
            else:
                if isinstance(message, wire.Request):
                    self._note(message.id)
                return received
            self._note(jobs[0].place[0])
            self._owed.add(jobs[0].place[0])
            return jobs
        return None

    def _note(self, request: int) -> None:
        """Have the server know, whatever comes, that a request was taken."""
        if self._memory is not None:
            self._memory.begin(request)

    def _drop(self, request: int) -> None:
        if request in self._owed:
            self._dropped.add(request)
            if request not in self._owed:  # another thread answered it concurrently
                self._dropped.discard(request)

    def is_dropped(self, request: int) -> bool:
        """Whether a batch was cancelled."""
        return request in self._dropped

    def refused(self, request: int) -> bool:
        """Whether a batch was cancelled; if so, answer it with a failure."""
        if request not in self._dropped:
            return False
        self.reply(wire.Raised(request, DROPPED))
        return True

    def _jobs(self, message: wire.Infer, received: wire.Received) -> list[Job]:
        header = received.header
        found, begin = [], 0
        for size, place in zip(header.sizes, header.places, strict=True):
            if place != wire.INLINE and self._memory is not None:
                found.append(self._memory.look(place, size))
            else:
                found.append(received.payload[begin : begin + size])
                begin += size
        return [
            Job(found[2 * i], found[2 * i + 1], head.format, head.session, (message.id, i))
            for i, head in enumerate(message.jobs)
        ]

    def answer(self, request: int, outcomes: Sequence[Outcome]) -> None:
        """Send a batch's outcomes; large bodies go through shared memory."""
        packed = single.pack_answer(request, outcomes[0]) if len(outcomes) == 1 else None
        if packed is not None:
            self._settle(request)
            self._send(lambda: packed)
            return
        heads = [wire.OutcomeHead(each.timing, each.failure, each.fresh) for each in outcomes]
        self.reply(wire.Answer(request, heads), [each.body for each in outcomes])

    def reply(self, message: wire.Message, parts: Sequence[Body] = ()) -> None:
        """Send a message; exit the process if the server has closed the socket."""
        if isinstance(message, (wire.Answer, wire.Raised)):
            self._settle(message.id)
        self._send(lambda: self._frame(message, parts))

    def _settle(self, request: int) -> None:
        self._owed.discard(request)
        self._dropped.discard(request)

    def _send(self, framed: Callable[[], Sequence[wire.Part]]) -> None:
        try:
            with self._lock:
                wire.send(self.sock, framed())
        except OSError:
            os._exit(0)  # the server is gone

    def _frame(self, message: wire.Message, parts: Sequence[Body]) -> list[wire.Part]:
        """Return the buffers to write. Needs the lock: answers must be in ring order."""
        split = [part if isinstance(part, tuple) else (part,) for part in parts]
        sizes = [sum(map(len, pieces)) for pieces in split]
        if self._memory is None or max(sizes, default=0) < wire.LARGE:
            return wire.placed(wire.Header(message, sizes), list(chain.from_iterable(split)))  # type: ignore[arg-type]
        places: list[int] = []
        inline: list[wire.Part] = []
        for size, pieces in zip(sizes, split, strict=True):
            place = self._memory.place(pieces) if size >= wire.LARGE else None
            places.append(wire.INLINE if place is None else place)
            if place is None:
                inline.extend(pieces)
        written = self._memory.written
        header = wire.Header(message, sizes, places, written)  # type: ignore[arg-type]
        return wire.placed(header, inline)
