"""A socket whose client sends the frames: one inference at a time, of the newest frame.

While an inference runs, the newest frame waits in a one-slot inbox, replacing the previous one. An
answer is sent while the next frame is inferred. For very fast models the next frames are sent to
the worker ahead of time, which decodes them meanwhile; not if the model is shared, or is stateful
and needs a session's frames in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from mataserver.contract.handles import ResultEvent
from mataserver.engines.worker_errors import NotDispatchedError, WorkerDied, WorkerReplacedError
from mataserver.errors import BadRequest, MataError, Unavailable
from mataserver.http.budget import BudgetShare
from mataserver.http.stream_channel import INTERNAL, PING_WINDOW, Channel, StreamError, StreamToken

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from mataserver.contract.envelope import Format
    from mataserver.engines.work import Outcome
    from mataserver.http.stream_channel import StreamSettings
    from mataserver.serving.sessions import Session

    Result = Outcome | MataError


MAX_DEPTH = 3
"""Frames given to the worker at a time while they are fast; otherwise one. With two, its threads
would still wait for answers and frames in transit."""
_TRANSIENT_STATUSES = frozenset({BadRequest.status, Unavailable.status})
"""Errors of a single frame, or temporary: the next frame may succeed."""
FAST_FRAME_MS = 5.0
"""Milliseconds of work of a fast frame, and of its wait. A frame then waits at most about 10 ms in
the worker, where newer ones cannot replace it."""


@dataclass(slots=True, eq=False)
class Frame:
    """A received frame, and its result; once the model has it, with its image if services need it.

    ``withdraw`` cancels it, if it runs without a task.
    """

    number: int
    share: BudgetShare
    image: bytes
    result: Outcome | MataError | None = None
    withdraw: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Cancel it, and release its resources."""
        self.share.give_back()
        if self.withdraw is not None:
            self.withdraw()
            self.withdraw = None


class Connection(Channel):
    """A socket whose client sends a session's frames."""

    def __init__(
        self, settings: StreamSettings, session: Session, socket: web.WebSocketResponse
    ) -> None:
        super().__init__(settings, session, socket)
        self._inbox: Frame | None = None
        self._pending: deque[Frame] = deque()
        self._sending = False
        self._depth = 1
        self._idle = asyncio.Event()
        self._idle.set()
        self._result_ready = asyncio.Event()
        self._last_frame = time.monotonic()
        self._context = contextvars.copy_context()

    async def _finish(self) -> None:
        """Wait for frames in progress before shutdown."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_timeout / 2):
                await self._idle.wait()

    def _idle_too_long(self, now: float) -> bool:
        return now - self._last_frame > self._settings.sessions.ttl and self._idle.is_set()

    # Input

    async def _on_binary(self, data: bytes) -> None:
        """Put a frame into the inbox, replacing a waiting one."""
        if self._closing.done():
            return
        share = BudgetShare(self._settings.budget, self._session.owner)
        try:
            share.take(len(data))
        except Unavailable as error:
            self._last_frame = time.monotonic()
            await self._send(StreamError.of(error, self._session.receive()))
            return
        self._receive(data, share)

    def _receive(self, data: bytes, share: BudgetShare) -> None:
        """Put a frame into the inbox, after reserving room for it."""
        number = self._session.receive()
        self._last_frame = time.monotonic()
        self._empty_inbox()
        self._inbox = Frame(number, share, data)
        self._dispatch_next()

    def _release(self) -> None:
        self._empty_inbox()
        for taken in self._pending:
            taken.cancel()  # including frames not started
        for taken in islice(self._pending, self._sending, None):  # frames being sent are recorded
            self._session.drop()
            if taken.result is not None:
                self._session.record(taken.result)

    def _empty_inbox(self) -> None:
        if self._inbox is None:
            return
        self._inbox.share.give_back()
        self._inbox = None
        self._session.drop()

    # Output

    def _dispatch_next(self) -> None:
        """Give the waiting frame to the model, unless the model or the client is busy."""
        frame = self._inbox
        if frame is None or self._closing.done() or self._is_full:
            return
        self._inbox, image = None, frame.image
        if not self._settings.observers:
            frame.image = b""
        self._pending.append(frame)
        self._idle.clear()
        if self._session.stream or not self._begin(image, frame):
            self._start_task(image, frame)

    def _on_client_read(self) -> None:
        self._dispatch_next()

    def _begin(self, image: bytes, taken: Frame) -> bool:
        """Start a frame without a task if the model is ready; return whether it did."""
        run, settle = self._context.copy().run, functools.partial(self._on_result, image, taken)
        try:
            taken.withdraw = self._session.begin(
                image, self._form, lambda result, waited: run(settle, result, waited)
            )
        except MataError:  # the task will raise it again
            return False
        return taken.withdraw is not None

    def _on_result(self, image: bytes, taken: Frame, result: Result, waited: float) -> None:
        """Store the result of such a frame; runs in the context of the worker's answer."""
        taken.withdraw = None
        if (
            isinstance(result, (WorkerReplacedError, NotDispatchedError))
            and not self._closing.done()
        ):
            self._depth = 1
            self._start_task(image, taken)
            return
        if not isinstance(result, MataError):
            self._depth = choose_depth(self._settings, self._session, result, waited) or self._depth
        taken.result = result
        taken.share.give_back()
        self._deliver(taken)
        self._dispatch_next()

    def _deliver(self, _taken: Frame) -> None:
        """Send the result in its turn."""
        self._result_ready.set()

    def _start_task(self, image: bytes, taken: Frame) -> None:
        """Infer a frame in a task once the model is ready; no newer frame is dispatched meanwhile.

        The model may be replaced by a stateful one, which would receive the newer frame first.
        """
        if self._session.stateful:  # or not loaded
            self._depth = 1
        self._spawn(self._infer(image, taken))

    async def _infer(self, image: bytes, taken: Frame) -> None:
        """Infer a frame; the result is sent meanwhile, and the next one may start."""
        try:
            taken.result = await self._outcome(image, taken.number)
        except MataError as error:
            taken.result = error
        finally:
            taken.share.give_back()
        self._result_ready.set()
        self._dispatch_next()

    @property
    def _is_full(self) -> bool:
        """Whether the model or the client is busy.

        Generated text, and a failure, which may end the session, are sent before the next frame.
        """
        count = len(self._pending)
        if len(self._pings) + count - self._sending >= PING_WINDOW:  # those being sent have pings
            return True
        if not count or self._session.stream:
            return bool(count)
        running = 0
        for taken in self._pending:
            result = taken.result
            if result is None:
                running += 1
            elif isinstance(result, MataError) or result.failure is not None:
                return True
        return running >= self._depth or count > self._depth

    async def _work(self) -> None:
        while True:
            while not self._pending or (result := self._pending[0].result) is None:
                self._result_ready.clear()
                await self._result_ready.wait()
            self._sending = True
            await self._send_outcome(self._pending[0], result)
            self._sending = False
            del result  # else it is kept until the next one
            self._pending.popleft()
            if not self._pending:
                self._idle.set()
            self._dispatch_next()

    async def _send_outcome(self, taken: Frame, result: Outcome | MataError) -> None:
        self._session.record(result)
        if isinstance(result, MataError):
            await self._answer(StreamError.of(result, taken.number))
            if not isinstance(result, WorkerDied) and result.status not in _TRANSIENT_STATUSES:
                self.request_close(INTERNAL, "the model cannot be loaded")
            return
        if result.failure is None:
            self._session.results += 1
            body = self._session.body(result, self._form, taken.number)
            await self._answer(body)
            note_sent(self._settings, self._session, taken, body, self._form)
            return
        await self._answer(StreamError.of(result.failure.error(), taken.number))
        if result.failure.status >= 500 and result.failure.status not in _TRANSIENT_STATUSES:
            self.request_close(INTERNAL, "inference failed")

    async def _outcome(self, image: bytes, number: int) -> Outcome:
        """Run a frame; streams the generated text to sessions that request it."""
        if not self._session.stream:
            result, waited = await self._session.infer(image, self._form)
            self._depth = choose_depth(self._settings, self._session, result, waited) or self._depth
            return result
        pieces = self._session.generate(image, self._form)
        async with contextlib.aclosing(pieces) as items:
            async for item in items:
                if not isinstance(item, str):
                    return item
                await self._send(StreamToken(number, item))
        raise WorkerDied("The model gave no result")


def note_sent(
    settings: StreamSettings, session: Session, taken: Frame, body: bytes, form: Format
) -> None:
    """Record a sent answer, and notify services."""
    session.reset = False  # the client has been notified
    if taken.image:
        settings.observers.publish(
            ResultEvent(
                "stream", session.model, session.task, taken.image, body, form == "msgpack",
                session_id=session.id, frame_id=taken.number,
            )
        )  # fmt: skip


def choose_depth(
    settings: StreamSettings, session: Session, outcome: Outcome, waited: float
) -> int:
    """Return how many frames to give the model at a time; 0 if the last one is inconclusive."""
    if outcome.failure is not None:
        return 0
    timing = outcome.timing
    is_fast = max(waited, timing.decode + timing.infer + timing.encode) < FAST_FRAME_MS
    ordered = is_fast and session.stateful
    alone = is_fast and settings.sessions.is_only_connected(session)
    return MAX_DEPTH if alone and not ordered else 1
