"""A session's camera: reads on demand, infers the newest frame, publishes to its viewers.

It is in demand while it has viewers or pending snapshots, or always. Otherwise it is disconnected
after a while. A slow viewer misses results, and delays neither the camera nor other viewers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Protocol

from mataserver.engines.worker_errors import Failure, JobFailed
from mataserver.errors import MataError, NotFound
from mataserver.serving.feeds.feed import SourceLostError
from mataserver.serving.feeds.inferred_frame import InferredFrame

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.contract.sessions import SourceFrame
    from mataserver.serving.feeds.feed import Feed
    from mataserver.serving.frames import FrameSession

IDLE_DISCONNECT = 30.0
"""Seconds that a camera stays connected without demand."""
MAX_AGE = 2.0
"""Age in seconds up to which a result counts as the newest, or twice the frame interval."""
SNAPSHOT_TIMEOUT = 10.0
"""Seconds that a snapshot waits for a result."""
FAILURE_PAUSE = 1.0
"""Pause in seconds after a frame that the model failed on."""

log = logging.getLogger("mataserver.cameras")


class Subscriber(Protocol):
    """A receiver of results."""

    def show(self, inferred: InferredFrame) -> None:
        """Receive a result; must not block."""

    def warn(self, detail: str) -> None:
        """Receive the notice that the camera was lost; must not block."""


class Camera:
    """The camera of one session."""

    def __init__(
        self,
        session: FrameSession,
        feed: Feed,
        *,
        shown: str,
        fps: float | None = None,
        always: bool = False,
        on_inferred: Callable[[InferredFrame], None] | None = None,
    ) -> None:
        self.feed = feed
        self.shown = shown
        self.fps = fps
        self.always = always
        self.viewers: set[Subscriber] = set()
        self._session = session
        self._on_inferred = on_inferred
        self._pending_snapshots = 0
        self._demand = asyncio.Event()
        self._newest: InferredFrame | None = None
        self._logged_problems: set[str] = set()  # of the present loss
        loop = asyncio.get_running_loop()
        self._next: asyncio.Future[InferredFrame] = loop.create_future()
        self._due = loop.time()
        self._task = loop.create_task(self._run())
        self._task.add_done_callback(self._on_task_end)

    # Viewers

    def subscribe(self, viewer: Subscriber) -> None:
        """Subscribe a viewer to all further results."""
        self.viewers.add(viewer)
        self._update_demand()
        if self.feed.failures:  # also while it is tried again, of which only the first is told
            viewer.warn(self._loss_message())

    def unsubscribe(self, viewer: Subscriber) -> None:
        """Unsubscribe a viewer."""
        self.viewers.discard(viewer)
        self._update_demand()

    async def newest(self) -> InferredFrame:
        """Return the newest frame with its result, waiting for one if there is none recent.

        With a slower model, returns the last one. Raises ``NotFound`` if there is none.
        """
        now = asyncio.get_running_loop().time()
        if self._newest is not None and now - self._newest.at <= max(
            MAX_AGE, 2 / (self.fps or MAX_AGE)
        ):
            return self._newest
        if self.feed.state == "failed":
            self._demand.set()  # one more attempt: whoever asks again may find it back
            raise NotFound(self._loss_message())
        self._pending_snapshots += 1
        self._update_demand()
        try:
            async with asyncio.timeout(SNAPSHOT_TIMEOUT):
                return await asyncio.shield(self._next)
        except TimeoutError:
            if self._newest is not None:
                return self._newest
            lost = (
                self._loss_message() if self.feed.failures else "The camera has given no result yet"
            )
            raise NotFound(lost) from None
        finally:
            self._pending_snapshots -= 1
            self._update_demand()

    async def close(self) -> None:
        """Stop reading and inferring; the frame in flight is cancelled."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._next.set_exception(NotFound("The session was deleted"))
        self._next.exception()  # marks it as retrieved: it may have no awaiter

    def _update_demand(self) -> None:
        if self.always or self.viewers or self._pending_snapshots:
            self._demand.set()
        else:
            self._demand.clear()

    # the reading task

    async def _run(self) -> None:
        self._update_demand()
        try:
            while True:
                await self._wait_for_demand()
                try:
                    frame = await self._next_frame()
                except SourceLostError as error:
                    self._report_loss(error.__cause__)
                    await asyncio.sleep(self.feed.pause)
                else:
                    self._report_recovery()
                    await self._serve(frame)
                    await self._keep_pace()
        finally:
            await self.feed.stop()

    async def _next_frame(self) -> SourceFrame:
        """Return the feed's next frame. A request for one more attempt ends with it."""
        try:
            return await self.feed.frame()
        finally:
            self._update_demand()

    async def _wait_for_demand(self) -> None:
        if self._demand.is_set():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_DISCONNECT):
                await self._demand.wait()
                return
        await self.feed.stop()
        self._newest = None
        await self._demand.wait()

    async def _keep_pace(self) -> None:
        """Limit the rate to ``fps``, without catching up after delays."""
        now = asyncio.get_running_loop().time()
        self._due = max(now, self._due + (1 / self.fps if self.fps else 0.0))
        await asyncio.sleep(self._due - now)

    async def _serve(self, frame: SourceFrame) -> None:
        session = self._session
        number = session.receive(frame.passed)
        session.drop(frame.passed - 1)
        inferred = InferredFrame(number, session.dropped, frame.image, 0.0)
        await self._infer(inferred)
        inferred.at = asyncio.get_running_loop().time()
        self._show(inferred)
        if inferred.failure is not None:
            await asyncio.sleep(FAILURE_PAUSE)

    async def _infer(self, inferred: InferredFrame) -> None:
        session = self._session
        try:
            outcome, _ = await session.infer(inferred.jpeg, "msgpack")
            session.record(outcome)
            inferred.body, inferred.timing = outcome.whole(), outcome.timing
        except JobFailed as error:
            inferred.failure = Failure.of(error)
        except MataError as error:
            session.record(error)
            inferred.failure = Failure.of(error)
        else:
            inferred.reset, session.reset = session.reset, False
            session.results += 1

    # publishing

    def _show(self, inferred: InferredFrame) -> None:
        self._newest = inferred
        self._next.set_result(inferred)
        self._next = asyncio.get_running_loop().create_future()
        for viewer in self.viewers:
            viewer.show(inferred)
        if self._on_inferred is not None and inferred.failure is None:
            self._on_inferred(inferred)

    def _report_loss(self, cause: BaseException | None) -> None:
        """Notify waiting callers; viewers once per loss, and the log once per reason of it."""
        message, self._newest = self._loss_message(), None
        self._next.set_exception(NotFound(message))
        self._next.exception()  # marks it as retrieved: it may have no awaiter
        self._next = asyncio.get_running_loop().create_future()
        problem = str(self.feed.problem)
        if problem not in self._logged_problems:
            self._logged_problems.add(problem)
            log.warning("%s of %s: %s", self.shown, self._session.id, problem, exc_info=cause)
        if self.feed.failures == 1:
            for viewer in self.viewers:
                viewer.warn(message)

    def _report_recovery(self) -> None:
        """Note the end of a loss in the log: whoever reads that it is gone looks for its return."""
        if self._logged_problems:
            self._logged_problems.clear()
            log.info("%s of %s gives frames now", self.shown, self._session.id)

    def _loss_message(self) -> str:
        return f"The camera gives no frames: {self.feed.problem}"

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("the camera of %s failed", self._session.id, exc_info=task.exception())
