"""The program of a worker process: receives messages, runs one model, sends answers.

The main thread loads and runs the model. Other threads read, decode and encode meanwhile, so that
the end of the connection is noticed whatever the model does.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import pickle
import select
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver.engines import wire
from mataserver.engines.arena import Incoming
from mataserver.engines.crew import FAILED, Crew, Order
from mataserver.engines.guard import Guard
from mataserver.engines.host import Decoded, ModelHost
from mataserver.engines.line import DROPPED, Line
from mataserver.engines.memory import keep_freed_memory, private_bytes
from mataserver.engines.streams import ChildStreams
from mataserver.engines.work import Job
from mataserver.engines.worker_errors import Failure
from mataserver.errors import MataError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from mataserver.engines.work import Assignment

LARGE = 200_000
"""Total bytes of a batch's images from which decoding counts as slow."""

log = logging.getLogger("mataserver.worker")


class ModelProcess:
    """The state of one worker process."""

    def __init__(
        self, line: Line, host: ModelHost, decode_threads: int, decode_patience: float
    ) -> None:
        self._line = line
        self._host = host
        self._encoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="encode")
        self._streams = ChildStreams(line, host)
        self._main = threading.get_ident()
        self._crew = Crew(line, self._order, self._decode, decode_threads - 1)
        Guard(decode_patience, self._late, self._look)

    def run(self) -> None:
        """Serve until the server sends ``Stop``."""
        self._crew.run()
        self._encoders.shutdown()
        self._host.close()

    # in

    def _order(self, asked: wire.Received | list[Job]) -> Order | None:
        """Return the order for a batch or a message, None for ``Stop``."""
        if isinstance(asked, list):
            brief = sum(len(job.image) for job in asked) < LARGE
            request = asked[0].place[0]
            return Order(request, functools.partial(self._forward, request), asked, brief)
        message = asked.header.message
        if isinstance(message, wire.Stop):
            return None
        request = message.id if isinstance(message, wire.Request) else 0
        return Order(request, self._service(asked), brief=not isinstance(message, wire.Call))

    def _service(self, asked: wire.Received) -> Callable[[list[Decoded]], None]:
        """Return the work for a message of a service, a stream or a session."""
        message, parts = asked.header.message, wire.parts(asked)
        if isinstance(message, (wire.Call, wire.Open)):
            return lambda _: self._streams.call(message, parts)
        if isinstance(message, wire.Generate):
            image, params = map(bytes, parts)
            job = Job(image, params, message.job.format, message.job.session, (message.id, 0))
            return lambda _: self._streams.generate(message.id, job)
        if isinstance(message, wire.Next):
            return lambda _: self._streams.advance(message.id)
        if isinstance(message, wire.Cancel):
            return lambda _: self._streams.cancel(message.id)
        if isinstance(message, wire.CloseSession):
            return lambda _: self._host.close_session(message.session)
        raise ValueError(f"no worker is told {type(message).__name__}")

    # callbacks of the guard

    def _late(self, thread: int) -> None:
        """Report the job whose image a thread is stuck on; the server then kills this process."""
        job = self._host.job_in_decoding(thread)
        request, index = (self._crew.request, 0) if job is None else job.place
        self._line.reply(wire.Late(request, index))

    def _look(self, decoding: set[int]) -> None:
        """Report that the model only waits for decoders.

        Also hand over the socket if a request that was expected to be quick keeps the model's
        thread.
        """
        self._crew.hand_on()
        if decoding and (not self._crew.busy or self._main in decoding):
            self._line.reply(wire.Decoding())

    # the work

    def _decode(self, job: Job) -> Decoded:
        if self._line.is_dropped(job.place[0]):
            return Decoded(job, failure=DROPPED)
        return self._host.decode(job)

    def _forward(self, request: int, batch: list[Decoded]) -> None:
        if self._line.refused(request):
            return
        answers = self._host.forward(batch)
        if self._crew.behind:
            self._encoders.submit(self._answer, request, answers)
        else:
            self._answer(request, answers)

    def _answer(self, request: int, answers: list[tuple[Decoded, Any, float, bool]]) -> None:
        try:
            outcomes = [
                self._host.encode(item, answer, ms, fresh=fresh)
                for item, answer, ms, fresh in answers
            ]
            self._line.answer(request, outcomes)
        except Exception:
            log.exception("an answer could not be sent")
            self._line.reply(wire.Raised(request, FAILED))


def main(sock: socket.socket, memory: int | None) -> None:
    """Load the model that the first message assigns, then serve."""
    keep_freed_memory()
    line = Line(sock, None if memory is None else Incoming(memory))
    if memory is not None:
        os.close(memory)
    while not isinstance(received := line.take(), wire.Received):
        select.select([sock], [], [])
        if not line.fetch():
            return
    try:
        # The only pickle on this wire. It comes from the server, before any model code has run.
        assignment: Assignment = pickle.loads(wire.parts(received)[0])  # noqa: S301
    except (ImportError, AttributeError):
        log.exception("the model's plugin cannot be imported")
        line.reply(
            wire.LoadRefused(
                Failure(503, "The model's plugin is not installed where its worker is")
            )
        )
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
    gc.freeze()  # the model lives as long as the process: keep collections from traversing it
    line.reply(wire.Loaded(msgspec.structs.replace(facts, memory=private_bytes(os.getpid()))))
    ModelProcess(line, host, assignment.decode_threads, assignment.decode_patience).run()
