"""The worker's side of the socket and of the shared memory."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING

from mataserver.engines import single_job, wire
from mataserver.engines.work import Job
from mataserver.engines.worker_errors import ABANDONED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mataserver.engines.arena import WorkerArena
    from mataserver.engines.work import Body, Outcome

_READ_BYTES = 1 << 18


class ServerConnection:
    """A worker's connection. One thread at a time may read, any thread may write."""

    def __init__(self, sock: socket.socket, memory: WorkerArena | None) -> None:
        self.sock = sock
        self._memory = memory
        self._splitter = wire.FrameSplitter()
        self._frames: deque[wire.Frame] = deque()
        self._lock = threading.Lock()
        self._unanswered: set[int] = set()
        self._cancelled: set[int] = set()

    def receive(self) -> bool:
        """Read what is available without blocking; False once the server has closed the socket."""
        try:
            data = self.sock.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._frames.extend(self._splitter.feed(data))
        return bool(data)

    def next_message(self) -> wire.ReceivedMessage | list[Job] | None:
        """Return the next message that was read, None if there is none.

        A batch is returned as its jobs, whose images may lie in shared memory.
        """
        while self._frames:
            received = self._frames.popleft()
            if isinstance(received, memoryview):
                jobs = [single_job.read_request(received, self._memory)]
            elif isinstance(message := received.header.message, wire.Infer):
                jobs = self._jobs(message, received)
            elif isinstance(message, wire.CancelBatch):
                self._cancel(message.id)
                continue
            else:
                if isinstance(message, wire.Request):
                    self._mark_taken(message.id)
                return received
            self._mark_taken(jobs[0].position[0])
            self._unanswered.add(jobs[0].position[0])
            return jobs
        return None

    def _mark_taken(self, request: int) -> None:
        """Record in shared memory that a request was taken: the server reads it after a death."""
        if self._memory is not None:
            self._memory.mark_taken(request)

    def _cancel(self, request: int) -> None:
        if request in self._unanswered:
            self._cancelled.add(request)
            if request not in self._unanswered:  # another thread answered it concurrently
                self._cancelled.discard(request)

    def is_cancelled(self, request: int) -> bool:
        """Whether a batch was cancelled."""
        return request in self._cancelled

    def refuse_if_cancelled(self, request: int) -> bool:
        """Whether a batch was cancelled; if so, answer it with a failure."""
        if request not in self._cancelled:
            return False
        self.reply(wire.RequestFailed(request, ABANDONED))
        return True

    def _jobs(self, message: wire.Infer, received: wire.ReceivedMessage) -> list[Job]:
        memory = self._memory
        parts = wire.parts(received, memory.view if memory else None)
        pairs = zip(message.jobs, parts[::2], parts[1::2], strict=True)
        return [
            Job(image, params, head.format, head.session, (message.id, index))
            for index, (head, image, params) in enumerate(pairs)
        ]

    def send_outcomes(self, request: int, outcomes: Sequence[Outcome]) -> None:
        """Send a batch's outcomes; large bodies go through shared memory."""
        if len(outcomes) == 1 and outcomes[0].failure is None:
            self._forget(request)
            self._send(lambda: single_job.pack_answer(request, outcomes[0], self._memory))
            return
        heads = [
            wire.OutcomeHeader(each.timing, each.failure, each.is_new_session) for each in outcomes
        ]
        self.reply(wire.Answer(request, heads), [each.body for each in outcomes])

    def reply(self, message: wire.Message, parts: Sequence[Body] = ()) -> None:
        """Send a message; exit the process if the server has closed the socket."""
        if isinstance(message, (wire.Answer, wire.RequestFailed)):
            self._forget(message.id)
        self._send(lambda: self._frame(message, parts))

    def _forget(self, request: int) -> None:
        self._unanswered.discard(request)
        self._cancelled.discard(request)

    def _send(self, framed: Callable[[], Sequence[wire.Buffer]]) -> None:
        try:
            with self._lock:
                buffers = framed()
                self.sock.sendall(b"".join(buffers) if len(buffers) > 1 else buffers[0])
        except OSError:
            os._exit(0)  # the server is gone

    def _frame(self, message: wire.Message, parts: Sequence[Body]) -> list[wire.Buffer]:
        """Return the buffers to write. Needs the lock: answers must be in ring order."""
        split = [part if isinstance(part, tuple) else (part,) for part in parts]
        sizes = [sum(map(len, pieces)) for pieces in split]
        if self._memory is None or max(sizes, default=0) < wire.SHARED_MIN_BYTES:
            header = wire.Header(message, sizes)  # type: ignore[arg-type]
            return wire.frame_with_header(header, list(chain.from_iterable(split)))
        offsets: list[int] = []
        inline: list[wire.Buffer] = []
        for size, pieces in zip(sizes, split, strict=True):
            offset = self._memory.write(pieces) if size >= wire.SHARED_MIN_BYTES else None
            offsets.append(wire.INLINE if offset is None else offset)
            if offset is None:
                inline.extend(pieces)
        written = self._memory.written
        header = wire.Header(message, sizes, offsets, written)  # type: ignore[arg-type]
        return wire.frame_with_header(header, inline)
