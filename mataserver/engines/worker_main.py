"""The program of a worker process: receives messages, runs one model, sends answers.

The main thread loads and runs the model. Other threads read, decode and encode concurrently, so
that the end of the connection is noticed whatever the model does.

A stream of a service advances one item per ``NextItem``, so several can interleave and a slow
reader delays only its own.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import pickle
import select
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import media
from mataserver.engines import payload, plain_classes, wire
from mataserver.engines.arena import WorkerArena
from mataserver.engines.host import DecodedJob, ModelHost
from mataserver.engines.memory import keep_freed_memory, private_bytes
from mataserver.engines.server_connection import ServerConnection
from mataserver.engines.watchdog import check_interval
from mataserver.engines.work import Job, Outcome
from mataserver.engines.worker_errors import ABANDONED, Failure
from mataserver.engines.worker_threads import FAILED, WorkerThreads, WorkItem
from mataserver.errors import MataError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from mataserver.engines.work import Assignment

SLOW_DECODE_BYTES = 200_000
"""Total bytes of a batch's images from which decoding counts as slow."""

log = logging.getLogger("mataserver.worker")


class WorkerStreams:
    """Method calls and open streams of one model; replies go to ``connection``."""

    def __init__(self, connection: ServerConnection, host: ModelHost) -> None:
        self._connection = connection
        self._host = host
        self._streams: dict[int, Iterator[Any]] = {}

    def call(self, message: wire.Call | wire.OpenStream, parts: list[wire.Part]) -> None:
        """Call a method and reply with its value, or open the stream of its items."""
        if isinstance(message, wire.OpenStream):
            self._streams[message.id] = self._open(parts)
        else:
            self._reply_with(
                message.id,
                lambda: self._host.call(*payload.unpack(parts, plain_classes.resolve_trusted)),
            )

    def _open(self, parts: list[wire.Part]) -> Iterator[Any]:
        """Yield the requested items; a malformed request thus fails at the first item."""
        yield from self._host.stream(*payload.unpack(parts, plain_classes.resolve_trusted))

    def generate(self, stream: int, job: Job) -> None:
        """Open the stream of a job's answer."""
        self._streams[stream] = self._host.generate(job)

    def advance(self, stream: int) -> None:
        """Reply with a stream's next item, or its end."""
        items = self._streams.get(stream, iter(()))
        if not self._reply_with(stream, lambda: next(items)):
            self._streams.pop(stream, None)

    def cancel(self, stream: int) -> None:
        """Close a stream."""
        items = self._streams.pop(stream, None)
        if items is not None:
            items.close()  # type: ignore[attr-defined]

    def _reply_with(self, request: int, function: Callable[[], Any]) -> bool:
        """Reply with what ``function`` returns; return False if that is a failure or the end."""
        try:
            self._send_value(request, function())
        except StopIteration:
            self._connection.reply(wire.StreamEnded(request))
        except MataError as error:
            self._connection.reply(wire.RequestFailed(request, Failure.of(error)))
        except Exception:
            log.exception("an answer could not be sent")
            failure = Failure(500, "The model returned something that cannot be sent")
            self._connection.reply(wire.RequestFailed(request, failure))
        else:
            return True
        return False

    def _send_value(self, request: int, value: object) -> None:
        """Send the value of a call or a stream; a job's outcome is sent like a batch's."""
        if isinstance(value, Outcome):
            self._connection.send_outcomes(request, [value])
        else:
            self._connection.reply(
                wire.ValueReturned(request), [(part,) for part in payload.pack(value).parts]
            )


class ModelProcess:
    """The state of one worker process."""

    def __init__(
        self,
        connection: ServerConnection,
        host: ModelHost,
        decode_threads: int,
        decode_timeout: float,
    ) -> None:
        self._connection = connection
        self._host = host
        self._encoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="encode")
        self._streams = WorkerStreams(connection, host)
        self._main = threading.get_ident()
        self._threads = WorkerThreads(
            connection, self._to_work_item, self._decode, decode_threads - 1
        )
        threading.Thread(
            target=self._watch_decoding,
            args=(decode_timeout,),
            name="decode watchdog",
            daemon=True,
        ).start()

    def run(self) -> None:
        """Serve until the server sends ``Stop``."""
        self._threads.run()
        self._encoders.shutdown()
        self._host.close()

    # in

    def _to_work_item(self, received: wire.ReceivedMessage | list[Job]) -> WorkItem | None:
        """Return the work item of a batch or a message, None for ``Stop``."""
        if isinstance(received, list):
            is_brief = sum(len(job.image) for job in received) < SLOW_DECODE_BYTES
            request = received[0].position[0]
            return WorkItem(request, functools.partial(self._forward, request), received, is_brief)
        message = received.header.message
        if isinstance(message, wire.Stop):
            return None
        request = message.id if isinstance(message, wire.Request) else 0
        return WorkItem(
            request, self._message_work(received), is_brief=not isinstance(message, wire.Call)
        )

    def _message_work(self, received: wire.ReceivedMessage) -> Callable[[list[DecodedJob]], None]:
        message, parts = received.header.message, wire.parts(received)
        if isinstance(message, (wire.Call, wire.OpenStream)):
            return lambda _: self._streams.call(message, parts)
        if isinstance(message, wire.Generate):
            image, params = map(bytes, parts)
            job = Job(image, params, message.job.format, message.job.session, (message.id, 0))
            return lambda _: self._streams.generate(message.id, job)
        if isinstance(message, wire.NextItem):
            return lambda _: self._streams.advance(message.id)
        if isinstance(message, wire.CloseStream):
            return lambda _: self._streams.cancel(message.id)
        if isinstance(message, wire.CloseSession):
            return lambda _: self._host.close_session(message.session)
        raise ValueError(f"a worker does not handle {type(message).__name__}")

    # the decode watchdog

    def _watch_decoding(self, limit: float) -> None:
        """Report, once, a thread that decodes for over ``limit`` seconds.

        Decoders cannot be interrupted, and a picture can block one long. Decoding has a clock
        separate from the model's: the server kills a worker that exceeds it, blames the picture,
        and moves the other requests to the next worker.
        """
        while True:
            time.sleep(check_interval(limit))
            found = media.decoding()
            latest_start = time.monotonic() - limit
            for thread, since in found.items():
                if since < latest_start:
                    self._report_timeout(thread)
                    return
            self._report_waiting(set(found))

    def _report_timeout(self, thread: int) -> None:
        job = self._host.jobs_in_decoding().get(thread)
        request, index = (self._threads.request, 0) if job is None else job.position
        self._connection.reply(wire.DecodeTimedOut(request, index))

    def _report_waiting(self, decoding: set[int]) -> None:
        """Report that the model only waits for decoders.

        Also hand over the socket if a request that was expected to be quick keeps the model's
        thread.
        """
        self._threads.pass_lead()
        if decoding and (not self._threads.is_busy or self._main in decoding):
            self._connection.reply(wire.WaitingForDecoder())

    # the work

    def _decode(self, job: Job) -> DecodedJob:
        if self._connection.is_cancelled(job.position[0]):
            return DecodedJob(job, failure=ABANDONED)
        return self._host.decode(job)

    def _forward(self, request: int, batch: list[DecodedJob]) -> None:
        if self._connection.refuse_if_cancelled(request):
            return
        answers = self._host.forward(batch)
        if self._threads.has_backlog:
            self._encoders.submit(self._answer, request, answers)
        else:
            self._answer(request, answers)

    def _answer(self, request: int, answers: list[tuple[DecodedJob, Any, float, bool]]) -> None:
        try:
            outcomes = [
                self._host.encode(item, answer, ms, is_new=is_new)
                for item, answer, ms, is_new in answers
            ]
            self._connection.send_outcomes(request, outcomes)
        except Exception:
            log.exception("an answer could not be sent")
            self._connection.reply(wire.RequestFailed(request, FAILED))


def main(sock: socket.socket, memory: int | None) -> None:
    """Load the model that the first message assigns, then serve."""
    keep_freed_memory()
    connection = ServerConnection(sock, None if memory is None else WorkerArena(memory))
    if memory is not None:
        os.close(memory)
    while not isinstance(received := connection.next_message(), wire.ReceivedMessage):
        select.select([sock], [], [])
        if not connection.receive():
            return
    try:
        # The only pickle on this wire. It comes from the server, before any model code has run.
        assignment: Assignment = pickle.loads(wire.parts(received)[0])  # noqa: S301
    except (ImportError, AttributeError):
        log.exception("the model's plugin cannot be imported")
        connection.reply(
            wire.LoadRefused(
                Failure(503, "The model's plugin is not installed where its worker is")
            )
        )
        return
    if assignment.confinement is not None:
        assignment.confinement.apply()
    host = ModelHost(assignment)
    try:
        report = host.load()
    except MataError as error:
        connection.reply(wire.LoadRefused(Failure.of(error)))
        return
    gc.collect()
    gc.freeze()  # the model lives as long as the process: keep collections from traversing it
    connection.reply(
        wire.Loaded(msgspec.structs.replace(report, memory=private_bytes(os.getpid())))
    )
    threads, timeout = assignment.decode_threads, assignment.context.decode_timeout
    ModelProcess(connection, host, threads, timeout).run()
