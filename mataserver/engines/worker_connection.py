"""The server's side of the wire to a worker process: framing and requests in flight.

Large parts are passed through shared memory. Each request in flight has a number and a callback,
which is called exactly once, at the latest when the connection is lost.

The worker runs third-party code, so its replies are validated before any caller sees them: a
malformed one raises ``WorkerDied`` for its caller and is never returned as a value.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from mataserver.engines import payload, plain_classes, single_job, wire
from mataserver.engines.work import Outcome
from mataserver.engines.worker_errors import NotDispatchedError, WorkerDied
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mataserver.engines.arena import Block, ServerArena
    from mataserver.engines.watchdog import Watchdog
    from mataserver.engines.work import Job

MALFORMED = "The model's worker sent a malformed reply"
_MAX_MILLISECONDS = 1e9
"""Upper bound of a time in milliseconds; the comparison also rejects NaN."""
ReplyCallback: TypeAlias = "Callable[[Reply | MataError], None]"
REPLY_TYPES = (wire.Answer, wire.ValueReturned, wire.StreamEnded, wire.RequestFailed)
MAX_UNSOLICITED = 1_000
"""Limit of unsolicited messages per second; more would starve the event loop.

A decoding worker sends four in the time of one picture, and one per second.
"""


class Reply(NamedTuple):
    """A worker's reply and copies of its parts; an ``Outcome`` is complete by itself."""

    message: wire.Message | Outcome
    parts: list[bytes]


def read_batch(reply: Reply | MataError, count: int) -> list[Outcome] | MataError:
    """Return the outcomes of a batch of ``count`` jobs, or its error."""
    if isinstance(reply, MataError):
        return reply
    return _outcomes(reply, count) or WorkerDied(MALFORMED)


def read_piece(reply: Reply) -> str | Outcome:
    """Return a text piece or, last, the outcome. Raises ``WorkerDied``."""
    outcomes = _outcomes(reply, 1)
    if outcomes is not None:
        return outcomes[0]
    if isinstance(reply.message, wire.ValueReturned):
        text = payload.unpack(reply.parts, plain_classes.package_resolver("", frozenset()))
        if isinstance(text, str):
            return text
    raise WorkerDied(MALFORMED)


def resolve(future: asyncio.Future[Reply], reply: Reply | MataError) -> None:
    """Complete a future with a reply, unless it was cancelled."""
    if future.done():
        return
    if isinstance(reply, MataError):
        future.set_exception(reply)
    else:
        future.set_result(reply)


def _outcomes(reply: Reply, count: int) -> list[Outcome] | None:
    """Return the outcomes of a batch, or None unless there is a valid one per job."""
    message, bodies = reply
    if isinstance(message, Outcome):
        found = [message]
    elif isinstance(message, wire.Answer) and len(message.outcomes) == len(bodies):
        found = [
            Outcome(body, head.timing, head.failure, head.is_new_session)
            for head, body in zip(message.outcomes, bodies, strict=True)
        ]
    else:
        return None
    return found if len(found) == count and all(map(_is_valid, found)) else None


def _is_valid(outcome: Outcome) -> bool:
    """Whether an outcome has an answer or a failure, and plausible timings."""
    is_answered = outcome.failure is not None or bool(outcome.body)
    return is_answered and 0.0 <= outcome.timing.total < _MAX_MILLISECONDS


class FloodError(Exception):
    """A worker exceeded the limit of unsolicited messages."""


class WorkerConnection:
    """Sends requests and dispatches their replies, until it is closed.

    ``watchdog`` observes every request and reply; ``on_message`` is called with each unsolicited
    message. Every method that sends raises ``NotDispatchedError``
    without a connection.
    """

    def __init__(self, watchdog: Watchdog, on_message: Callable[[wire.Message], None]) -> None:
        self._watchdog = watchdog
        self._on_message = on_message
        self._memory: ServerArena | None = None
        self._ids = itertools.count(1)
        self._in_flight: dict[int, ReplyCallback] = {}
        self._splitter = wire.FrameSplitter(wire.MAX_ANSWER_BYTES)
        self._transport: asyncio.WriteTransport | None = None
        self._closed = False
        self._unsolicited, self._second = 0, 0

    def use_memory(self, memory: ServerArena | None) -> None:
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
        memory = self._memory
        taken: float = math.inf
        if memory is not None and isinstance(error, WorkerDied):
            taken = memory.last_taken
        for request, on_reply in in_flight.items():
            on_reply(error if request <= taken else NotDispatchedError())
        if memory is not None:
            memory.close()

    def feed(self, data: bytes) -> None:
        """Process received bytes. Raises on malformed data, and ``FloodError``."""
        for received in self._splitter.feed(data):
            if self._closed:  # by an earlier message of this data
                return
            if isinstance(received, memoryview):
                if self._dispatch_answer(received):
                    continue
            elif isinstance(message := received.header.message, REPLY_TYPES):
                reply = Reply(message, self._parts(received))
                if self._dispatch_reply(message.id, reply):
                    continue
            else:
                self._on_message(message)
            self._count_unsolicited()

    def _dispatch_answer(self, frame: memoryview) -> bool:
        """Dispatch the answer to a single job; return whether its request was in flight.

        A body in shared memory is only copied if it is still needed when this returns.
        """
        request, outcome, written = single_job.read_answer(frame, self._memory)
        was_in_flight = self._dispatch_reply(request, Reply(outcome, []))
        if written:
            if was_in_flight:
                outcome.keep()
            if self._memory is not None and not self._closed:
                self._memory.release_up_to(written)
        return was_in_flight

    def _dispatch_reply(self, request: int, reply: Reply) -> bool:
        """Dispatch a reply; return whether its request was in flight."""
        message = reply.message
        failure = message.failure if isinstance(message, wire.RequestFailed) else None
        self._watchdog.record_answer(request, succeeded=failure is None)
        on_reply = self._in_flight.pop(request, None)
        if on_reply is None:
            return False
        on_reply(reply if failure is None else failure.error())
        return True

    def _count_unsolicited(self) -> None:
        """Count an unsolicited message. Raises ``FloodError`` over the limit."""
        second = int(asyncio.get_running_loop().time())
        if second != self._second:
            self._unsolicited, self._second = 0, second
        self._unsolicited += 1
        if self._unsolicited > MAX_UNSOLICITED:
            raise FloodError(f"it sent over {MAX_UNSOLICITED} unexpected messages in a second")

    def send(self, message: wire.Message, parts: Sequence[wire.Buffer] = ()) -> None:
        """Send a message that gets no reply."""
        self._write(wire.frame(message, parts))

    def send_batch(self, jobs: Sequence[Job], on_reply: ReplyCallback) -> int:
        """Send a batch and register ``on_reply`` for its reply; return the request's number."""
        request = next(self._ids)
        blocks: list[Block] = []
        parts = [part for job in jobs for part in (job.image, job.params)]
        offsets = [self._write_shared(part, blocks) for part in parts]
        if len(jobs) == 1 and offsets[1] == wire.INLINE:
            self._write(single_job.pack_request(request, jobs[0], offsets[0]))
        else:
            heads = [wire.JobHeader(job.format, job.session) for job in jobs]
            header = wire.Header(wire.Infer(request, heads), list(map(len, parts)), offsets)
            inline = (part for part, at in zip(parts, offsets, strict=True) if at == wire.INLINE)
            self._write(wire.frame_with_header(header, list(inline)))
        # Without blocks there is nothing to free: one call less for each small request.
        callback = functools.partial(self._free_and_pass, blocks, on_reply) if blocks else on_reply
        self._register(request, callback, len(jobs))
        return request

    def _write_shared(self, part: wire.Buffer, blocks: list[Block]) -> int:
        """Copy a large part to shared memory; return its offset, or ``INLINE``."""
        if len(part) < wire.SHARED_MIN_BYTES or self._memory is None:
            return wire.INLINE
        block = self._memory.write(part)
        if block is None:
            return wire.INLINE
        blocks.append(block)
        return block.begin

    def next_id(self) -> int:
        """Return the number of a new request."""
        return next(self._ids)

    async def send_request(self, message: wire.Request, parts: Sequence[wire.Buffer] = ()) -> Reply:
        """Send a request and await its reply. Raises what the model raised."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.send(message, parts)
        self._register(message.id, functools.partial(resolve, future))
        return await future

    def cancel_batch(self, request: int) -> None:
        """Tell the worker that a batch was cancelled."""
        if request in self._in_flight:
            self.send(wire.CancelBatch(request))

    def fail(self, request: int, error: MataError) -> None:
        """Fail one request with ``error``, if it is still in flight."""
        on_reply = self._in_flight.pop(request, None)
        if on_reply is not None:
            on_reply(error)

    def oldest_request(self) -> int | None:
        """Return the number of the longest-running request in flight."""
        return next(iter(self._in_flight), None)

    def _write(self, buffers: list[wire.Buffer]) -> None:
        if self._transport is None or self._closed:
            raise NotDispatchedError
        # What one that is closing is given is lost with it, and ``close`` says so; asyncio's own
        # ``writelines`` fails there since Python 3.12, or writes to the next owner of its number.
        if not self._transport.is_closing():
            self._transport.writelines(buffers)

    def _register(self, request: int, on_reply: ReplyCallback, images: int = 1) -> None:
        self._in_flight[request] = on_reply
        self._watchdog.add_pending(request, images)

    def _free_and_pass(
        self, blocks: list[Block], on_reply: ReplyCallback, reply: Reply | MataError
    ) -> None:
        """Release a batch's shared memory, and pass its reply on."""
        if self._memory is not None:
            for block in blocks:
                self._memory.free(block)
        on_reply(reply)

    def _parts(self, received: wire.ReceivedMessage) -> list[bytes]:
        """Return copies of a message's parts, and release their shared memory.

        Must run for each message in turn: releasing a later message's memory releases all before
        it.
        """
        memory = self._memory
        found = list(map(bytes, wire.parts(received, memory.view if memory else None)))
        if memory is not None and received.header.offsets:
            memory.release_up_to(received.header.written)
        return found
