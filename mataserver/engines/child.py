"""The program of a worker process: reads messages, runs one model, answers.

The main thread loads and runs the model. A listener reads the socket beside it, so that its end is
noticed whatever the model does, and a pool decodes and encodes beside it while it is busy. A model
that answers in no time would spend more on these hand-overs than on its work: while it has one
request at a time, or one core to itself, the main thread takes the reading over and does each
request from end to end.
Streams advance one item per ``Next``, so several of them interleave and a slow reader holds up only
its own.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from mataserver.engines import wire
from mataserver.engines.arena import Incoming
from mataserver.engines.host import ModelHost
from mataserver.engines.memory import keep_freed_memory
from mataserver.engines.work import Failure, Job
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mataserver.engines.host import Decoded
    from mataserver.engines.work import Assignment, Outcome

QUICK = 0.003
"""Seconds below which a request is worth no hand-over."""
QUICK_ROW = 8
"""Quick requests in a row after which the main thread takes the reading over."""

log = logging.getLogger("mataserver.worker")


class Child:
    """One worker process's state."""

    def __init__(self, line: Line, host: ModelHost, decode_threads: int) -> None:
        self._line = line
        self._host = host
        self._work: queue.SimpleQueue[tuple[int, Callable[[], None]] | None] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
        self._parallel = decode_threads > 1
        self._streams: dict[int, Iterator[Any]] = {}
        self._busy = False
        self._quick = 0
        self._listener = Listener(line, self._dispatch)

    def run(self) -> None:
        """Serve until the server says stop."""
        while True:
            if self._listener.paused and self._work.empty():
                self._read()
                continue
            work = self._work.get()
            if work is None:
                break
            self._do(*work)
        self._pool.shutdown()
        self._host.close()

    # in

    def _read(self) -> None:
        """Read one message in place of the listener, which goes on for all but the simplest."""
        received = self._line.receive()
        if received is None:
            os._exit(0)
        message = received.header.message
        if not isinstance(message, wire.Infer) or (self._parallel and not message.alone):
            self._listener.resume()
            self._dispatch(received)
            return
        jobs = self._line.jobs(received)
        self._do(message.id, lambda: self._infer(message, jobs))

    def _dispatch(self, received: wire.Received) -> None:
        message = received.header.message
        if isinstance(message, wire.Infer):
            self._take(message, self._line.jobs(received))
        elif isinstance(message, wire.Stop):
            self._work.put(None)
        elif isinstance(message, wire.CloseSession):
            session = message.session
            self._work.put((0, lambda: self._host.close_session(session)))
        elif isinstance(message, (wire.Call, wire.Open)):
            payload = bytes(wire.parts(received)[0])
            self._put(message, lambda: self._call(message, payload))
        elif isinstance(message, wire.Generate):
            image, params = map(bytes, wire.parts(received))
            job = Job(image, params, message.job.format, message.job.session)
            self._put(message, lambda: self._generate(message.id, job))
        elif isinstance(message, wire.Next):
            self._put(message, lambda: self._next(message.id))
        elif isinstance(message, wire.Cancel):
            self._work.put((0, lambda: self._cancel(message.id)))

    def _put(self, message: wire.Request, work: Callable[[], None]) -> None:
        self._work.put((message.id, work))

    def _take(self, message: wire.Infer, jobs: list[Job]) -> None:
        """Decode beside the main thread if that one is busy; else leave it the whole job."""
        if len(jobs) == 1 and not self._busy and self._work.empty():
            self._put(message, lambda: self._infer(message, jobs))
            return
        decoding = [self._pool.submit(self._host.decode, job) for job in jobs]
        self._put(message, lambda: self._forward(message, [each.result() for each in decoding]))

    # the work

    def _do(self, request: int, work: Callable[[], None]) -> None:
        self._busy = True
        try:
            work()
        except Exception:
            log.exception("work failed")
            if request:
                self._line.reply(wire.Raised(request, Failure(500, "The model failed")))
        self._busy = False

    def _infer(self, message: wire.Infer, jobs: list[Job]) -> None:
        """Do a batch from end to end."""
        self._forward(message, [self._host.decode(job) for job in jobs])

    def _forward(self, message: wire.Infer, batch: list[Decoded]) -> None:
        begun = time.perf_counter()
        answers = self._host.forward(batch)
        if self._work.empty():
            self._answer(message.id, answers)
        else:
            self._pool.submit(self._answer, message.id, answers)
        seconds = time.perf_counter() - begun + sum(item.decode_ms for item in batch) / 1e3
        self._judge(quick=seconds < QUICK and (message.alone or not self._parallel))

    def _judge(self, *, quick: bool) -> None:
        """Take the reading over from the listener, or give it back, by what requests take."""
        self._quick = self._quick + 1 if quick else 0
        if self._listener.paused:
            if not self._quick:
                self._listener.resume()
        elif self._quick >= QUICK_ROW:
            self._listener.pause()

    def _answer(self, request: int, answers: list[tuple[Decoded, Any, float, bool]]) -> None:
        try:
            outcomes = [
                self._host.encode(item, answer, ms, fresh=fresh)
                for item, answer, ms, fresh in answers
            ]
            self._line.answer(request, outcomes)
        except Exception:
            log.exception("an answer could not be sent")
            self._line.reply(wire.Raised(request, Failure(500, "The model failed")))

    def _call(self, message: wire.Call | wire.Open, payload: bytes) -> None:
        method, args, kwargs = pickle.loads(payload)  # noqa: S301 - from our own server process
        if isinstance(message, wire.Open):
            self._streams[message.id] = self._host.stream(method, args, kwargs)
            return
        self._guarded(message.id, lambda: self._host.call(method, args, kwargs))

    def _generate(self, stream: int, job: Job) -> None:
        self._streams[stream] = self._host.generate(job)

    def _next(self, stream: int) -> None:
        end = object()
        items = self._streams.get(stream, iter(()))
        value = self._guarded(stream, lambda: next(items, end), silent=end)
        if value is end or isinstance(value, Failure):
            self._streams.pop(stream, None)
        if value is end:
            self._line.reply(wire.Ended(stream))

    def _cancel(self, stream: int) -> None:
        items = self._streams.pop(stream, None)
        if items is not None:
            items.close()  # type: ignore[attr-defined]

    def _guarded(self, request: int, function: Callable[[], Any], silent: object = None) -> Any:
        """Run ``function`` and reply with its value or its failure; return either."""
        try:
            value = function()
            if value is not silent or silent is None:
                self._line.reply(wire.Returned(request), [pickle.dumps(value, protocol=5)])
        except MataError as error:
            failure = Failure(error.status, error.detail, error.retry_after)
            self._line.reply(wire.Raised(request, failure))
            return failure
        except Exception:
            log.exception("an answer could not be sent")
            failure = Failure(500, "The model returned something that cannot be sent")
            self._line.reply(wire.Raised(request, failure))
            return failure
        return value


class Line:
    """The worker's end of the socket and of the shared memory."""

    def __init__(self, sock: socket.socket, memory: Incoming | None) -> None:
        self.sock = sock
        self._memory = memory
        self._reader = wire.Reader(sock)
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """Whether a message is here already."""
        return self._reader.ready

    def receive(self) -> wire.Received | None:
        """Wait for the next message; None when the server is gone."""
        return self._reader.next()

    def jobs(self, received: wire.Received) -> list[Job]:
        """Return the jobs of a batch; their images may lie in the shared memory."""
        header = received.header
        message = header.message
        found, begin = [], 0
        for index, size in enumerate(header.sizes):
            place = header.places[index] if header.places else wire.INLINE
            if place != wire.INLINE and self._memory is not None:
                found.append(self._memory.look(place, size))
            else:
                found.append(received.payload[begin : begin + size])
                begin += size
        heads = message.jobs if isinstance(message, wire.Infer) else []
        return [
            Job(found[2 * i], found[2 * i + 1], head.format, head.session)
            for i, head in enumerate(heads)
        ]

    def answer(self, request: int, outcomes: Sequence[Outcome]) -> None:
        """Send a batch's outcomes; large fields go through the shared memory."""
        heads = [
            wire.OutcomeHead(list(each.fields), each.timing, each.failure, each.fresh)
            for each in outcomes
        ]
        self.reply(
            wire.Answer(request, heads),
            [part for each in outcomes for part in each.fields.values()],
        )

    def reply(self, message: wire.Message, parts: Sequence[wire.Part] = ()) -> None:
        """Send a message; end with the server."""
        try:
            with self._lock:
                wire.send(self.sock, self._frame(message, parts))
        except OSError:
            os._exit(0)  # the server is gone

    def _frame(self, message: wire.Message, parts: Sequence[wire.Part]) -> list[wire.Part]:
        """Return the buffers to write; the lock is held, so that answers lie in their order."""
        sizes = [len(part) for part in parts]
        if self._memory is None or max(sizes, default=0) < wire.LARGE:
            return wire.frame(message, parts)
        places, inline = [], []
        for part in parts:
            place = self._memory.place(part) if len(part) >= wire.LARGE else None
            places.append(wire.INLINE if place is None else place)
            if place is None:
                inline.append(part)
        written = self._memory.written
        header = wire.Header(message, sizes, places, written)  # type: ignore[arg-type]
        return wire.placed(header, inline)


class Listener:
    """The thread that reads the socket, unless it is paused: then its caller does."""

    def __init__(self, line: Line, dispatch: Callable[[wire.Received], None]) -> None:
        self._line = line
        self._dispatch = dispatch
        self._reading = threading.Lock()
        self._running = threading.Event()
        self._wake, self._waker = socket.socketpair()
        self._running.set()
        threading.Thread(target=self._listen, name="listener", daemon=True).start()

    @property
    def paused(self) -> bool:
        """Whether the caller reads in its place."""
        return not self._running.is_set()

    def pause(self) -> None:
        """Stop reading; it reads no more once this returns."""
        self._running.clear()
        self._waker.send(b"x")
        self._reading.acquire()

    def resume(self) -> None:
        """Read again."""
        self._reading.release()
        self._running.set()

    def _listen(self) -> None:
        try:
            self._follow()
        except BaseException:
            log.exception("what the server says cannot be read")
        os._exit(1)  # at once: a worker that hears nothing would be taken for one that hangs

    def _follow(self) -> None:
        waiting = select.poll()
        waiting.register(self._line.sock, select.POLLIN)
        waiting.register(self._wake, select.POLLIN)
        while True:
            self._running.wait()
            with self._reading:
                while self._running.is_set():
                    if not self._line.ready:
                        woken = any(fd == self._wake.fileno() for fd, _ in waiting.poll())
                        if woken:
                            self._wake.recv(64)
                            continue
                    received = self._line.receive()
                    if received is None:
                        os._exit(0)  # the server is gone: nobody waits, a hung model holds nothing
                    self._dispatch(received)


def main(sock: socket.socket, memory: int | None) -> None:
    """Load the model that the first message names, then serve."""
    keep_freed_memory()
    line = Line(sock, None if memory is None else Incoming(memory))
    if memory is not None:
        os.close(memory)
    received = line.receive()
    if received is None:
        return
    assignment: Assignment = pickle.loads(wire.parts(received)[0])  # noqa: S301 - from our own server process
    host = ModelHost(assignment)
    try:
        facts = host.load()
    except MataError as error:
        line.reply(wire.Refused(Failure(error.status, error.detail, error.retry_after)))
        return
    line.reply(wire.Loaded(facts))
    Child(line, host, assignment.decode_threads).run()
