"""The program of a worker process: reads messages, runs one model, answers.

The main thread loads and runs the model. A listener reads the socket beside it, so that its end is
noticed whatever the model does, and others decode and encode beside it while it is busy. While
requests take no time the main thread reads them itself, in the lane. (Should a model hang there,
the kernel ends it with its server.)
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import queue
import select
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver.engines import wire
from mataserver.engines.arena import Incoming
from mataserver.engines.guard import Guard
from mataserver.engines.host import ModelHost
from mataserver.engines.lane import Lane
from mataserver.engines.line import Line
from mataserver.engines.listener import Listener
from mataserver.engines.memory import keep_freed_memory, private_bytes
from mataserver.engines.streams import ChildStreams
from mataserver.engines.work import Failure, Job
from mataserver.errors import MataError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from concurrent.futures import Future

    from mataserver.engines.host import Decoded
    from mataserver.engines.work import Assignment

QUICK = 0.003
"""Seconds below which a request is worth no hand-over."""
QUICK_ROW = 8
"""Quick requests in a row after which the main thread takes the reading over."""

log = logging.getLogger("mataserver.worker")


class ModelProcess:
    """One worker process's state."""

    def __init__(
        self, line: Line, host: ModelHost, decode_threads: int, decode_patience: float
    ) -> None:
        self._line = line
        self._host = host
        self._work: queue.SimpleQueue[tuple[int, Callable[[], None]] | None] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
        self._encoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="encode")
        self._streams = ChildStreams(line, host)
        self._busy, self._waiting = False, False
        self._request, self._main = 0, threading.get_ident()
        self._quick = 0
        self._listener = Listener(line, self._dispatch)
        self._lane = Lane(line, host.decode, self._finish, decode_threads - 1)
        Guard(decode_patience, self._late, self._tell_decoding)

    def run(self) -> None:
        """Serve until the server says stop."""
        while True:
            if self._listener.paused and self._work.empty():
                self._follow()
                continue
            work = self._work.get()
            if work is None:
                break
            self._do(*work)
            del work  # its pictures would stay until the next one
        self._pool.shutdown()
        self._encoders.shutdown()
        self._lane.close()
        self._host.close()

    # in

    def _follow(self) -> None:
        """Do a request in the lane; leave it for the listener when requests are quick no more."""
        other = self._lane.step()
        if other is None and self._quick:
            return
        self._lane.drain()
        if other is not None:
            self._dispatch(other)
        self._listener.resume()

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
            parts = wire.parts(received)
            self._put(message, lambda: self._streams.call(message, parts))
        elif isinstance(message, wire.Generate):
            image, params = map(bytes, wire.parts(received))
            job = Job(image, params, message.job.format, message.job.session, (message.id, 0))
            self._put(message, lambda: self._streams.generate(message.id, job))
        elif isinstance(message, wire.Next):
            self._put(message, lambda: self._streams.advance(message.id))
        elif isinstance(message, wire.Cancel):
            self._work.put((0, lambda: self._streams.cancel(message.id)))

    def _put(self, message: wire.Request, work: Callable[[], None]) -> None:
        self._work.put((message.id, work))

    def _take(self, message: wire.Infer, jobs: list[Job]) -> None:
        """Decode beside the main thread if that one is busy; else leave it the whole job."""
        if len(jobs) == 1 and not self._busy and self._work.empty():
            self._put(message, lambda: self._infer(message, jobs))
            return
        decoding = [self._pool.submit(self._host.decode, job) for job in jobs]
        self._put(message, lambda: self._forward(message.id, self._awaited(decoding)))

    def _awaited(self, decoding: list[Future[Decoded]]) -> list[Decoded]:
        """Wait for what others decode."""
        self._waiting = True
        found = [each.result() for each in decoding]
        self._waiting = False
        return found

    # the guard's

    def _late(self, thread: int) -> None:
        """Name the job whose image a thread is stuck with; the server ends this process."""
        job = self._host.decoded_by(thread)
        request, index = (self._request, 0) if job is None else job.place
        self._line.reply(wire.Late(request, index))

    def _tell_decoding(self, threads: set[int]) -> None:
        """Have the server know when the model only waits for those that decode."""
        if not self._busy or self._waiting or self._main in threads:
            self._line.reply(wire.Decoding())

    # the work

    def _do(self, request: int, work: Callable[[], None]) -> None:
        self._busy, self._request = True, request
        try:
            work()
        except Exception:
            log.exception("work failed")
            if request:
                self._line.reply(wire.Raised(request, Failure(500, "The model failed")))
        self._busy = False

    def _infer(self, message: wire.Infer, jobs: list[Job]) -> None:
        """Do a batch from end to end."""
        if not self._line.refused(message.id):
            self._forward(message.id, [self._host.decode(job) for job in jobs])

    def _finish(self, request: int, batch: list[Decoded]) -> None:
        """Do the rest of a batch of the lane."""
        self._do(request, lambda: self._forward(request, batch))

    def _forward(self, request: int, batch: list[Decoded]) -> None:
        if self._line.refused(request):
            return
        begun = time.perf_counter()
        answers = self._host.forward(batch)
        if self._work.empty():
            self._answer(request, answers)
        else:
            self._encoders.submit(self._answer, request, answers)
        seconds = time.perf_counter() - begun
        for item in batch:
            seconds += item.decode_ms / 1e3
        self._judge(quick=seconds < QUICK)

    def _judge(self, *, quick: bool) -> None:
        """Count quick requests; one that was held up by chance does not undo a row of them."""
        if quick:
            self._quick = min(self._quick + 1, QUICK_ROW)
        else:
            self._quick = max(self._quick - QUICK_ROW // 2, 0) if self._listener.paused else 0
        if self._quick == QUICK_ROW and not self._listener.paused:
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


def main(sock: socket.socket, memory: int | None) -> None:
    """Load the model that the first message names, then serve."""
    keep_freed_memory()
    line = Line(sock, None if memory is None else Incoming(memory))
    if memory is not None:
        os.close(memory)
    while (received := line.take()) is None:
        select.select([sock], [], [])
        if not line.fetch():
            return
    try:
        # The one pickle there is: from the server, which was here before any model was.
        assignment: Assignment = pickle.loads(wire.parts(received)[0])  # noqa: S301
    except (ImportError, AttributeError):
        log.exception("the model's plugin cannot be imported")
        line.reply(wire.LoadRefused(Failure(503, "The model's plugin is not where its worker is")))
        return
    if assignment.confinement is not None:
        assignment.confinement.begin()
    host = ModelHost(assignment)
    try:
        facts = host.load()
    except MataError as error:
        line.reply(wire.LoadRefused(Failure.of(error)))
        return
    gc.collect()
    gc.freeze()  # a model lives as long as its process: no later look for garbage pauses at it
    line.reply(wire.Loaded(msgspec.structs.replace(facts, memory=private_bytes(os.getpid()))))
    ModelProcess(line, host, assignment.decode_threads, assignment.decode_patience).run()
