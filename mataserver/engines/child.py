"""The program of a worker process: reads messages, runs one model, answers.

Threads: the main thread reads the socket, so that its end is noticed whatever the model does; one
forward thread runs the model; while it is busy a pool decodes and encodes beside it. Streams
advance one item per ``Next``, so several of them interleave and a slow reader holds up only its
own.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from mataserver.engines import wire
from mataserver.engines.host import ModelHost
from mataserver.engines.memory import keep_freed_memory
from mataserver.engines.work import Failure, Job
from mataserver.errors import MataError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from mataserver.engines.host import Decoded
    from mataserver.engines.work import Assignment

log = logging.getLogger("mataserver.worker")


class Child:
    """One worker process's state."""

    def __init__(self, sock: socket.socket, host: ModelHost, decode_threads: int) -> None:
        self._sock = sock
        self._host = host
        self._send_lock = threading.Lock()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
        self._streams: dict[int, Iterator[Any]] = {}
        self._busy = False

    def run(self) -> None:
        """Serve until the socket ends or the server says stop."""
        forward = threading.Thread(target=self._forward, name="forward", daemon=True)
        forward.start()
        while (received := wire.receive(self._sock)) is not None:
            message, parts = received
            if isinstance(message, wire.Stop):
                break
            self._dispatch(message, parts)
        else:
            os._exit(
                0
            )  # the server is gone: nobody waits for an answer, a hung model holds nothing
        self._work.put(None)
        forward.join(timeout=5.0)

    def _dispatch(self, message: wire.Message, parts: list[memoryview]) -> None:
        if isinstance(message, wire.Infer):
            self._take(message.id, _jobs(message, parts))
        elif isinstance(message, wire.CloseSession):
            self._work.put(lambda: self._host.close_session(message.session))
        elif isinstance(message, (wire.Call, wire.Open)):
            request = pickle.loads(parts[0])  # noqa: S301 - from our own server process
            self._work.put(lambda: self._call(message, request))
        elif isinstance(message, wire.Generate):
            job = Job(bytes(parts[0]), bytes(parts[1]), message.job.format, message.job.session)
            self._work.put(lambda: self._generate(message.id, job))
        elif isinstance(message, wire.Next):
            self._work.put(lambda: self._next(message.id))
        elif isinstance(message, wire.Cancel):
            self._work.put(lambda: self._cancel(message.id))

    def _take(self, request: int, jobs: list[Job]) -> None:
        """Decode beside the forward thread if that one is busy; else leave it the whole job."""
        if len(jobs) == 1 and not self._busy and self._work.empty():
            self._work.put(lambda: self._infer(request, [self._host.decode(jobs[0])]))
            return
        decoding = [self._pool.submit(self._host.decode, job) for job in jobs]
        self._work.put(lambda: self._infer(request, [future.result() for future in decoding]))

    def _forward(self) -> None:
        while (work := self._work.get()) is not None:
            self._busy = True
            try:
                work()
            except Exception:
                log.exception("work failed; its request runs into its deadline")
            self._busy = False
        self._pool.shutdown()
        self._host.close()

    def _infer(self, request: int, batch: list[Decoded]) -> None:
        answers = self._host.forward(batch)
        if self._work.empty():
            self._answer(request, answers)
        else:
            self._pool.submit(self._answer, request, answers)

    def _answer(self, request: int, answers: list[tuple[Decoded, Any, float, bool]]) -> None:
        outcomes = [
            self._host.encode(item, answer, ms, fresh=fresh) for item, answer, ms, fresh in answers
        ]
        heads = [
            wire.OutcomeHead(list(each.fields), each.timing, each.failure, each.fresh)
            for each in outcomes
        ]
        fields = [part for each in outcomes for part in each.fields.values()]
        self._reply(wire.Answer(request, heads), fields)

    def _call(self, message: wire.Call | wire.Open, request: tuple[str, Any, Any]) -> None:
        method, args, kwargs = request
        if isinstance(message, wire.Open):
            self._streams[message.id] = self._host.stream(method, args, kwargs)
            return
        self._guarded(message.id, lambda: self._host.call(method, args, kwargs))

    def _generate(self, stream: int, job: Job) -> None:
        self._streams[stream] = self._host.generate(job)

    def _next(self, stream: int) -> None:
        items = self._streams.get(stream)
        if items is None:
            return
        end = object()
        value = self._guarded(stream, lambda: next(items, end), silent=end)
        if value is end or isinstance(value, Failure):
            self._streams.pop(stream, None)
        if value is end:
            self._reply(wire.Ended(stream))

    def _cancel(self, stream: int) -> None:
        items = self._streams.pop(stream, None)
        if items is not None:
            items.close()  # type: ignore[attr-defined]

    def _guarded(self, request: int, function: Callable[[], Any], silent: object = None) -> Any:
        """Run ``function`` and reply with its value or its failure; return either."""
        try:
            value = function()
            if value is not silent or silent is None:
                self._reply(wire.Returned(request), [pickle.dumps(value, protocol=5)])
        except MataError as error:
            failure = Failure(error.status, error.detail, error.retry_after)
            self._reply(wire.Raised(request, failure))
            return failure
        except Exception:
            log.exception("an answer could not be sent")
            failure = Failure(500, "The model returned something that cannot be sent")
            self._reply(wire.Raised(request, failure))
            return failure
        return value

    def _reply(self, message: wire.Message, parts: list[bytes] | None = None) -> None:
        try:
            with self._send_lock:
                wire.send(self._sock, message, parts or ())
        except OSError:
            os._exit(0)  # the server is gone


def _jobs(message: wire.Infer, parts: list[memoryview]) -> list[Job]:
    return [
        Job(bytes(parts[2 * i]), bytes(parts[2 * i + 1]), head.format, head.session)
        for i, head in enumerate(message.jobs)
    ]


def main(sock: socket.socket) -> None:
    """Load the model that the first message names, then serve."""
    keep_freed_memory()
    received = wire.receive(sock)
    if received is None:
        return
    assignment: Assignment = pickle.loads(received[1][0])  # noqa: S301 - from our own server process
    host = ModelHost(assignment)
    try:
        facts = host.load()
    except MataError as error:
        failure = Failure(error.status, error.detail, error.retry_after)
        wire.send(sock, wire.Refused(failure))
        return
    wire.send(sock, wire.Loaded(facts))
    Child(sock, host, assignment.decode_threads).run()
