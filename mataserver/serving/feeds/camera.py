"""One camera of a session: reads while it is wanted, infers the newest frame, tells its viewers.

It is wanted while somebody is connected, a snapshot is being waited for, or always. A camera that
nobody wants is disconnected after a while. A viewer that reads slowly misses results and holds up
neither the camera nor another viewer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Protocol

from mataserver.engines.accidents import Failure, JobFailed
from mataserver.errors import MataError, NotFound
from mataserver.serving.feeds.feed import Lost
from mataserver.serving.feeds.shot import Shot

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.contract.sessions import SourceFrame
    from mataserver.serving.feeds.feed import Feed
    from mataserver.serving.sessions import Session

LINGER = 30.0
"""Seconds that a camera stays connected when nobody wants it."""
FRESH = 2.0
"""Seconds for which a result may be shown as the newest, or twice the time between two."""
PATIENCE = 10.0
"""Seconds that a snapshot waits for a result."""
AFTER_FAILURE = 1.0
"""Seconds of rest after a frame that the model failed on."""

log = logging.getLogger("mataserver.cameras")


class Subscriber(Protocol):
    """Whoever is shown the results."""

    def show(self, shot: Shot) -> None:
        """Take a result; never waits."""
        ...

    def warn(self, detail: str) -> None:
        """Learn that the camera was lost; never waits."""
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

    # who looks

    def join(self, viewer: Subscriber) -> None:
        """Have a viewer shown every result from now on."""
        self.viewers.add(viewer)
        self._look()
        if self.feed.state == "failed":
            viewer.warn(self._lost_sentence())

    def part(self, viewer: Subscriber) -> None:
        """Show a viewer nothing more."""
        self.viewers.discard(viewer)
        self._look()

    async def newest(self) -> Shot:
        """Return the newest frame with its result, waiting for one if there is none of late.

        Of a model that is slower than that it is the last one. Raises ``NotFound`` when there is
        none.
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
        """Stop reading and inferring; the frame under way is given up."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._next.set_exception(NotFound("The session was deleted"))
        self._next.exception()  # nobody may be waiting

    def _look(self) -> None:
        """Note whether anybody looks."""
        if self.always or self.viewers or self._waiting:
            self._wanted.set()
        else:
            self._wanted.clear()

    # what it does

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
        """Wait as long as ``fps`` asks; time that was lost is not made up for."""
        now = asyncio.get_running_loop().time()
        self._due = max(now, self._due + (1 / self.fps if self.fps else 0.0))
        await asyncio.sleep(self._due - now)

    async def _serve(self, frame: SourceFrame) -> None:
        """Infer a frame and show what came of it."""
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

    # what it tells

    def _show(self, shot: Shot) -> None:
        self._shot = shot
        self._next.set_result(shot)
        self._next = asyncio.get_running_loop().create_future()
        for viewer in self.viewers:
            viewer.show(shot)
        if self._on_shot is not None and shot.failure is None:
            self._on_shot(shot)

    def _tell_lost(self, cause: BaseException | None) -> None:
        """Tell whoever waits; viewers and the log once, not with every try."""
        sentence, self._shot = self._lost_sentence(), None
        self._next.set_exception(NotFound(sentence))
        self._next.exception()  # nobody may be waiting
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
