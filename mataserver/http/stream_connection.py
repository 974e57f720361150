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
from itertools import islice
from typing import TYPE_CHECKING

from mataserver.contract.handles import ResultEvent
from mataserver.engines.worker_errors import NotDispatchedError, WorkerDied, WorkerReplacedError
from mataserver.errors import BadRequest, MataError, Unavailable
from mataserver.http.budget import BudgetShare
from mataserver.http.stream_channel import INTERNAL, WINDOW, Channel, StreamError
from mataserver.http.stream_frames import Frame, StreamToken, Taken

if TYPE_CHECKING:
    from aiohttp import web

    from mataserver.contract.envelope import Format
    from mataserver.engines.work import Outcome
    from mataserver.http.stream_channel import Terms
    from mataserver.serving.sessions import Session

    Found = Outcome | MataError


AT_ONCE = 3
"""Frames given to the worker at a time while they are fast; otherwise one. With two, its threads
would still wait for answers and frames in transit."""
_PASSING = frozenset({BadRequest.status, Unavailable.status})
"""Errors of a single frame, or temporary: the next frame may succeed."""
QUICK_MS = 5.0
"""Milliseconds of work of a fast frame, and of its wait. A frame then waits at most about 10 ms in
the worker, where newer ones cannot replace it."""


class Connection(Channel):
    """A socket whose client sends a session's frames."""

    def __init__(self, terms: Terms, session: Session, socket: web.WebSocketResponse) -> None:
        super().__init__(terms, session, socket)
        self._inbox: Frame | None = None
        self._taken: deque[Taken] = deque()
        self._sending = False
        self._at_once = 1
        self._idle = asyncio.Event()
        self._idle.set()
        self._found = asyncio.Event()
        self._last_frame = time.monotonic()
        self._context = contextvars.copy_context()

    async def _finish(self) -> None:
        """Wait for frames in progress before shutdown."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._terms.drain_timeout / 2):
                await self._idle.wait()

    def _idle_too_long(self, now: float) -> bool:
        return now - self._last_frame > self._terms.sessions.ttl and self._idle.is_set()

    # Input

    async def _binary(self, data: bytes) -> None:
        """Put a frame into the inbox, replacing a waiting one."""
        if self._closing.done():
            return
        share = BudgetShare(self._terms.budget, self._session.owner)
        try:
            share.take(len(data))
        except Unavailable as error:
            self._last_frame = time.monotonic()
            await self._send(StreamError(detail=error.detail, frame_id=self._session.receive()))
            return
        self._receive(data, share)

    def _receive(self, data: bytes, share: BudgetShare) -> None:
        """Put a frame into the inbox, after reserving room for it."""
        number = self._session.receive()
        self._last_frame = time.monotonic()
        self._empty_inbox()
        self._inbox = Frame(number, data, share)
        self._feed()

    def _release(self) -> None:
        self._empty_inbox()
        for taken in self._taken:
            taken.give_up()  # including frames not started
        for taken in islice(self._taken, self._sending, None):  # frames being sent are recorded
            if taken.found is not None:
                self._session.record(taken.found)

    def _empty_inbox(self) -> None:
        """Drop the waiting frame."""
        if self._inbox is None:
            return
        self._inbox.share.give_back()
        self._inbox = None
        self._session.drop()

    # Output

    def _feed(self) -> None:
        """Give the waiting frame to the model, unless the model or the client is busy."""
        frame = self._inbox
        if frame is None or self._closing.done() or self._full:
            return
        self._inbox = None
        taken = Taken(frame.number, frame.share)
        if self._terms.observers:
            taken.image = frame.image
        self._taken.append(taken)
        self._idle.clear()
        if self._session.stream or not self._begin(frame.image, taken):
            self._wait_for(frame.image, taken)

    def _has_read(self) -> None:
        self._feed()

    def _begin(self, image: bytes, taken: Taken) -> bool:
        """Start a frame without a task if the model is ready; return whether it did."""
        run, settle = self._context.copy().run, functools.partial(self._settle, image, taken)
        try:
            taken.withdraw = self._session.begin(
                image, self._form, lambda found, waited: run(settle, found, waited)
            )
        except MataError:  # the task will raise it again
            return False
        return taken.withdraw is not None

    def _settle(self, image: bytes, taken: Taken, found: Found, waited: float) -> None:
        """Store the result of such a frame; runs in the context of the worker's answer."""
        taken.withdraw = None
        if (
            isinstance(found, (WorkerReplacedError, NotDispatchedError))
            and not self._closing.done()
        ):
            self._at_once = 1
            self._wait_for(image, taken)
            return
        if not isinstance(found, MataError):
            self._at_once = pace(self._terms, self._session, found, waited) or self._at_once
        taken.found = found
        taken.share.give_back()
        self._tell(taken)
        self._feed()

    def _tell(self, _taken: Taken) -> None:
        """Send the result in its turn."""
        self._found.set()

    def _wait_for(self, image: bytes, taken: Taken) -> None:
        """Let a frame wait until the model is ready; no newer frame waits meanwhile.

        The model may be another one by then, stateful, and would receive such a frame first.
        """
        if self._session.stateful:  # or not loaded
            self._at_once = 1
        self._spawn(self._infer(image, taken))

    async def _infer(self, image: bytes, taken: Taken) -> None:
        """Infer a frame; the result is sent meanwhile, and the next one may start."""
        try:
            taken.found = await self._outcome(image, taken.number)
        except MataError as error:
            taken.found = error
        finally:
            taken.share.give_back()
        self._found.set()
        self._feed()

    @property
    def _full(self) -> bool:
        """Whether the model or the client is busy.

        Generated text is streamed, and a failure may end the session: both are sent before the next
        frame starts.
        """
        count = len(self._taken)
        if len(self._pings) + count - self._sending >= WINDOW:  # those being sent have pings
            return True
        if not count or self._session.stream:
            return bool(count)
        under_way = 0
        for taken in self._taken:
            found = taken.found
            if found is None:
                under_way += 1
            elif isinstance(found, MataError) or found.failure is not None:
                return True
        return under_way >= self._at_once or count > self._at_once

    async def _work(self) -> None:
        while True:
            while not self._taken or (found := self._taken[0].found) is None:
                self._found.clear()
                await self._found.wait()
            self._sending = True
            await self._send_outcome(self._taken[0], found)
            self._sending = False
            del found  # else it is kept until the next one
            self._taken.popleft()
            if not self._taken:
                self._idle.set()
            self._feed()

    async def _send_outcome(self, taken: Taken, found: Outcome | MataError) -> None:
        number = taken.number
        self._session.record(found)
        if isinstance(found, MataError):
            await self._answer(StreamError(detail=found.detail, frame_id=number))
            if not isinstance(found, WorkerDied) and found.status not in _PASSING:
                self.request_close(INTERNAL, "the model cannot be loaded")
            return
        if found.failure is None:
            self._session.results += 1
            body = self._session.body(found, self._form, number)
            await self._answer(body)
            note_sent(self._terms, self._session, taken, body, self._form)
            return
        await self._answer(StreamError(detail=found.failure.detail, frame_id=number))
        if found.failure.status >= 500 and found.failure.status not in _PASSING:
            self.request_close(INTERNAL, "inference failed")

    async def _outcome(self, image: bytes, number: int) -> Outcome:
        """Run a frame; streams the generated text to sessions that request it."""
        if not self._session.stream:
            outcome, waited = await self._session.infer(image, self._form)
            self._at_once = pace(self._terms, self._session, outcome, waited) or self._at_once
            return outcome
        pieces = self._session.generate(image, self._form)
        async with contextlib.aclosing(pieces) as items:
            async for item in items:
                if not isinstance(item, str):
                    return item
                await self._send(StreamToken(number, item))
        raise WorkerDied("The model gave no result")


def note_sent(terms: Terms, session: Session, taken: Taken, body: bytes, form: Format) -> None:
    """Record a sent answer, and notify services."""
    session.reset = False  # the client has been notified
    if taken.image:
        terms.observers.publish(
            ResultEvent(
                "stream", session.model, session.task, taken.image, body, form == "msgpack",
                session_id=session.id, frame_id=taken.number,
            )
        )  # fmt: skip


def pace(terms: Terms, session: Session, outcome: Outcome, waited: float) -> int:
    """Return how many frames to give the model at a time; 0 if the last one is inconclusive."""
    if outcome.failure is not None:
        return 0
    timing = outcome.timing
    quick = max(waited, timing.decode + timing.infer + timing.encode) < QUICK_MS
    ordered = quick and session.stateful
    alone = quick and terms.sessions.is_only_connected(session)
    return AT_ONCE if alone and not ordered else 1
