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
from mataserver.serving.feeds.feed import Lost
from mataserver.serving.feeds.shot import Shot

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.contract.sessions import SourceFrame
    from mataserver.serving.feeds.feed import Feed
    from mataserver.serving.sessions import Session

LINGER = 30.0
"""Seconds that a camera stays connected without demand."""
FRESH = 2.0
"""Age in seconds up to which a result counts as the newest, or twice the frame interval."""
PATIENCE = 10.0
"""Seconds that a snapshot waits for a result."""
AFTER_FAILURE = 1.0
"""Pause in seconds after a frame that the model failed on."""

log = logging.getLogger("mataserver.cameras")


class Subscriber(Protocol):
    """A receiver of results."""

    def show(self, shot: Shot) -> None:
        """Receive a result; must not block."""
        ...

    def warn(self, detail: str) -> None:
        """Receive the notice that the camera was lost; must not block."""
        ...


class Camera:
    """The camera of one session."""

    def __init__(
        self,
        session: Session,
        feed: Feed,
        *,
        shown: str,
        fps: float | None = None,
        always: bool = False,
        linger: float = LINGER,
        patience: float = PATIENCE,
        on_shot: Callable[[Shot], None] | None = None,
    ) -> None:
        self.feed = feed
        self.shown = shown
        self.fps = fps
        self.always = always
        self.viewers: set[Subscriber] = set()
        self._session = session
        self._linger = linger
        self._patience = patience
        self._on_shot = on_shot
        self._waiting = 0
        self._wanted = asyncio.Event()
        self._shot: Shot | None = None
        loop = asyncio.get_running_loop()
        self._next: asyncio.Future[Shot] = loop.create_future()
        self._due = loop.time()
        self._task = loop.create_task(self._run())
        self._task.add_done_callback(self._ended)

    # Viewers

    def join(self, viewer: Subscriber) -> None:
        """Subscribe a viewer to all further results."""
        self.viewers.add(viewer)
        self._look()
        if self.feed.state == "failed":
            viewer.warn(self._lost_sentence())

    def part(self, viewer: Subscriber) -> None:
        """Unsubscribe a viewer."""
        self.viewers.discard(viewer)
        self._look()

    async def newest(self) -> Shot:
        """Return the newest frame with its result, waiting for one if there is none recent.

        With a slower model, returns the last one. Raises ``NotFound`` if there is none.
        """
        now = asyncio.get_running_loop().time()
        if self._shot is not None and now - self._shot.at <= max(FRESH, 2 / (self.fps or FRESH)):
            return self._shot
        if self.feed.state == "failed":
            raise NotFound(self._lost_sentence())
        self._waiting += 1
        self._look()
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.shield(self._next)
        except TimeoutError:
            if self._shot is not None:
                return self._shot
            raise NotFound("The camera has given no result yet") from None
        finally:
            self._waiting -= 1
            self._look()

    async def close(self) -> None:
        """Stop reading and inferring; the frame in flight is cancelled."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._next.set_exception(NotFound("The session was deleted"))
        self._next.exception()  # marks it as retrieved: it may have no awaiter

    def _look(self) -> None:
        """Update whether the camera is in demand."""
        if self.always or self.viewers or self._waiting:
            self._wanted.set()
        else:
            self._wanted.clear()

    # the reading task

    async def _run(self) -> None:
        self._look()
        try:
            while True:
                await self._until_wanted()
                try:
                    frame = await self.feed.frame()
                except Lost as error:
                    self._tell_lost(error.__cause__)
                    await asyncio.sleep(self.feed.pause)
                else:
                    await self._serve(frame)
                    await self._keep_pace()
        finally:
            await self.feed.stop()

    async def _until_wanted(self) -> None:
        if self._wanted.is_set():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._linger):
                await self._wanted.wait()
                return
        await self.feed.stop()
        self._shot = None
        await self._wanted.wait()

    async def _keep_pace(self) -> None:
        """Limit the rate to ``fps``, without catching up after delays."""
        now = asyncio.get_running_loop().time()
        self._due = max(now, self._due + (1 / self.fps if self.fps else 0.0))
        await asyncio.sleep(self._due - now)

    async def _serve(self, frame: SourceFrame) -> None:
        """Infer a frame and publish the result."""
        session = self._session
        number = session.receive(frame.passed)
        session.drop(frame.passed - 1)
        shot = Shot(number, session.dropped, frame.image, 0.0)
        await self._infer(shot)
        shot.at = asyncio.get_running_loop().time()
        self._show(shot)
        if shot.failure is not None:
            await asyncio.sleep(AFTER_FAILURE)

    async def _infer(self, shot: Shot) -> None:
        session = self._session
        try:
            outcome, _ = await session.infer(shot.jpeg, "msgpack")
            session.note(outcome)
            shot.body, shot.timing = outcome.whole(), outcome.timing
        except JobFailed as error:
            shot.failure = Failure.of(error)
        except MataError as error:
            session.note(error)
            shot.failure = Failure.of(error)
        else:
            shot.reset, session.reset = session.reset, False
            session.results += 1

    # publishing

    def _show(self, shot: Shot) -> None:
        self._shot = shot
        self._next.set_result(shot)
        self._next = asyncio.get_running_loop().create_future()
        for viewer in self.viewers:
            viewer.show(shot)
        if self._on_shot is not None and shot.failure is None:
            self._on_shot(shot)

    def _tell_lost(self, cause: BaseException | None) -> None:
        """Notify waiting callers; viewers and the log only once per loss."""
        sentence, self._shot = self._lost_sentence(), None
        self._next.set_exception(NotFound(sentence))
        self._next.exception()  # marks it as retrieved: it may have no awaiter
        self._next = asyncio.get_running_loop().create_future()
        if self.feed.failures == 1:
            told = (self.shown, self._session.id, self.feed.problem)
            log.warning("%s of %s: %s", *told, exc_info=cause)
            for viewer in self.viewers:
                viewer.warn(sentence)

    def _lost_sentence(self) -> str:
        return f"The camera gives no frames: {self.feed.problem}"

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("the camera of %s failed", self._session.id, exc_info=task.exception())
