"""The server's side of the wire to a worker process: framing and requests in flight.

Large parts are passed through shared memory. Each request in flight has a number and a callback,
which is called exactly once, at the latest when the connection is lost.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from typing import TYPE_CHECKING

from mataserver.engines import single, wire
from mataserver.engines.replies import Reply, settle
from mataserver.engines.worker_errors import NotDispatchedError, WorkerDied

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mataserver.engines.arena import Block, Outgoing
    from mataserver.engines.watchdog import Watchdog
    from mataserver.engines.work import Job
    from mataserver.errors import MataError

    Take = Callable[[Reply | MataError], None]


ANSWERS = (wire.Answer, wire.Returned, wire.Ended, wire.Raised)
UNASKED = 1_000
"""Limit of unsolicited messages per second; more would starve the event loop.

A decoding worker sends four in the time of one picture, and one per second.
"""


class Flooded(Exception):
    """A worker exceeded the limit of unsolicited messages."""


class Exchange:
    """Sends requests and dispatches their replies, until it is closed.

    ``watchdog`` observes every request and reply; ``noticed`` is called with each unsolicited
    message. Every method that sends raises ``NotDispatchedError``
    without a connection.
    """

    def __init__(self, watchdog: Watchdog, noticed: Callable[[wire.Message], None]) -> None:
        self._watchdog = watchdog
        self._noticed = noticed
        self._memory: Outgoing | None = None
        self._ids = itertools.count(1)
        self._in_flight: dict[int, Take] = {}
        self._unframer = wire.Unframer(wire.LARGEST_ANSWER)
        self._transport: asyncio.WriteTransport | None = None
        self._closed = False
        self._unasked, self._second = 0, 0

    def share(self, memory: Outgoing | None) -> None:
        """Pass large parts through ``memory`` from now on."""
        self._memory = memory

    def connect(self, transport: asyncio.WriteTransport) -> None:
        """Write to ``transport`` from now on."""
        self._transport = transport

    def abort(self) -> None:
        """Close the connection and discard unsent data."""
        if self._transport is not None:
            self._transport.abort()

    def close(self, error: MataError) -> None:
        """Fail every request in flight with ``error``, and unmap the shared memory.

        Requests that a dead worker had not taken from the socket can go to the next worker.
        """
        self._closed = True
        in_flight, self._in_flight = self._in_flight, {}
        untaken = self._first_untaken() if isinstance(error, WorkerDied) else None
        for request, take in in_flight.items():
            take(error if untaken is None or request < untaken else NotDispatchedError())
        if self._memory is not None:
            self._memory.close()

    def _first_untaken(self) -> int | None:
        """Return the least number of a request that the worker did not take; None: unknown."""
        return None if self._memory is None else self._memory.begun + 1

    def feed(self, data: bytes) -> None:
        """Process received bytes. Raises on malformed data, and ``Flooded``."""
        for received in self._unframer.feed(data):
            if self._closed:  # by an earlier message of this data
                return
            if isinstance(received, memoryview):
                request, outcome = single.read_answer(received)
                if self._answered(request, Reply(outcome, [])):
                    continue
            elif isinstance(message := received.header.message, ANSWERS):
                reply = Reply(message, self._parts(received))
                if self._answered(message.id, reply):
                    continue
            else:
                self._noticed(message)
            self._count_unasked()

    def _answered(self, request: int, reply: Reply) -> bool:
        """Dispatch a reply; return whether its request was in flight."""
        self._watchdog.answered(request, well=not isinstance(reply.message, wire.Raised))
        take = self._in_flight.pop(request, None)
        if take is None:
            return False
        take(reply)
        return True

    def _count_unasked(self) -> None:
        """Count an unsolicited message. Raises ``Flooded`` over the limit."""
        second = int(asyncio.get_running_loop().time())
        if second != self._second:
            self._unasked, self._second = 0, second
        self._unasked += 1
        if self._unasked > UNASKED:
            raise Flooded(f"it sent over {UNASKED} messages in a second that nobody waits for")

    def send(self, message: wire.Message, parts: Sequence[wire.Part] = ()) -> None:
        """Send a message that gets no reply."""
        self._write(wire.frame(message, parts))

    def send_batch(self, jobs: Sequence[Job], take: Take) -> int:
        """Send a batch and register ``take`` for its reply; return the request's number."""
        request = next(self._ids)
        blocks: list[Block] = []
        parts = [part for job in jobs for part in (job.image, job.params)]
        places = [self._place(part, blocks) for part in parts]
        if len(jobs) == 1 and places[1] == wire.INLINE:
            self._write(single.pack_order(request, jobs[0], places[0]))
        else:
            heads = [wire.JobHead(job.format, job.session) for job in jobs]
            header = wire.Header(wire.Infer(request, heads), list(map(len, parts)), places)
            inline = (part for part, at in zip(parts, places, strict=True) if at == wire.INLINE)
            self._write(wire.placed(header, list(inline)))
        # Without blocks there is nothing to free: one call less for each small request.
        freeing = functools.partial(self._take_and_free, blocks, take) if blocks else take
        self._expect(request, freeing, len(jobs))
        return request

    def _place(self, part: wire.Part, blocks: list[Block]) -> int:
        """Copy a large part to shared memory; return its offset, or ``INLINE``."""
        if len(part) < wire.LARGE or self._memory is None:
            return wire.INLINE
        block = self._memory.place(part)
        if block is None:
            return wire.INLINE
        blocks.append(block)
        return block.begin

    def next_id(self) -> int:
        """Return the number of a new request."""
        return next(self._ids)

    async def ask(self, message: wire.Request, parts: Sequence[wire.Part] = ()) -> Reply:
        """Send a request and await its reply. Raises what the model raised."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.send(message, parts)
        self._expect(message.id, functools.partial(settle, future))
        return await future

    def drop(self, request: int) -> None:
        """Tell the worker that a batch was cancelled."""
        if request in self._in_flight:
            self.send(wire.Drop(request))

    def fail(self, request: int, error: MataError) -> None:
        """Fail one request with ``error``, if it is still in flight."""
        take = self._in_flight.pop(request, None)
        if take is not None:
            take(error)

    def oldest(self) -> int | None:
        """Return the number of the longest-running request in flight."""
        return next(iter(self._in_flight), None)

    def _write(self, buffers: list[wire.Part]) -> None:
        if self._transport is None or self._closed:
            raise NotDispatchedError
        self._transport.writelines(buffers)

    def _expect(self, request: int, take: Take, images: int = 1) -> None:
        self._in_flight[request] = take
        self._watchdog.expect(request, images)

    def _take_and_free(self, blocks: list[Block], take: Take, reply: Reply | MataError) -> None:
        """Release a batch's shared memory, and pass its reply on."""
        if self._memory is not None:
            for block in blocks:
                self._memory.free(block)
        take(reply)

    def _parts(self, received: wire.Received) -> list[bytes]:
        """Return copies of a message's parts, and release their shared memory.

        Must run for each message in turn: releasing a later message's memory releases all before
        it.
        """
        header = received.header
        if not header.places or self._memory is None:
            return list(map(bytes, wire.parts(received)))
        found, begin = [], 0
        for size, place in zip(header.sizes, header.places, strict=True):
            if place == wire.INLINE:
                found.append(bytes(received.payload[begin : begin + size]))
                begin += size
            else:
                found.append(self._memory.take(place, size))
        self._memory.taken(header.written)
        return found
