"""The cameras of sessions, built from what services provide, and their metrics."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, get_args

from mataserver.contract.handles import ResultEvent
from mataserver.contract.sessions import CameraInfo
from mataserver.errors import NotFound
from mataserver.serving.feeds.camera import Camera
from mataserver.serving.feeds.feed import Feed, State

if TYPE_CHECKING:
    from mataserver.contract.sessions import SessionSource
    from mataserver.metrics import Metrics
    from mataserver.serving.feeds.inferred_frame import InferredFrame
    from mataserver.serving.observers import Observers
    from mataserver.serving.sessions import Session, SessionStore


class CameraRegistry:
    """The cameras of a server's sessions, whatever their source."""

    def __init__(self, sessions: SessionStore, metrics: Metrics, observers: Observers) -> None:
        self._sessions = sessions
        self._metrics = metrics
        self._observers = observers

    def camera_of(self, session: Session) -> Camera | None:
        """Return a session's camera, or None if a client sends the frames."""
        return session.camera if isinstance(session.camera, Camera) else None

    def attach(
        self,
        session: Session,
        source: SessionSource,
        fps: float | None = None,
        *,
        always: bool = False,
    ) -> None:
        """Make a service's source provide a session's frames."""
        reconnected = self._metrics.reconnects.labels(session.model).inc
        damaged = self._metrics.damaged.labels(session.model).inc
        session.camera = Camera(
            session,
            Feed(source.frames, reconnected, damaged),
            shown=source.shown,
            fps=fps,
            always=always,
            on_inferred=partial(self._publish, session),
        )

    def info(self, session: Session) -> CameraInfo | None:
        """Return the state of a session's camera, None without one."""
        camera = self.camera_of(session)
        if camera is None:
            return None
        feed = camera.feed
        return CameraInfo(
            camera.shown,
            feed.state,
            feed.reconnects,
            len(camera.viewers),
            camera.fps,
            camera.always,
            feed.problem,
            feed.damaged,
        )

    async def picture(self, session: Session) -> tuple[bytes, int]:
        """Return the newest frame as a JPEG with its result drawn in, and its number.

        Extends the session's lifetime. Raises ``NotFound`` without a camera or a frame.
        """
        camera = self.camera_of(session)
        if camera is None:
            raise NotFound(f"{session.id} has no camera")
        self._sessions.touch(session)
        inferred = await camera.newest()
        return await inferred.picture(session.task), inferred.number

    def count(self) -> None:
        """Set the gauges of the cameras' states."""
        found = [self.camera_of(session) for session in self._sessions.all()]
        states = [camera.feed.state for camera in found if camera is not None]
        for state in get_args(State):
            self._metrics.cameras.labels(state).set(states.count(state))

    def _publish(self, session: Session, inferred: InferredFrame) -> None:
        """Notify services of a frame's result."""
        if self._observers:
            self._observers.publish(
                ResultEvent(
                    "camera", session.model, session.task, inferred.jpeg, inferred.body,
                    packed=True, session_id=session.id, frame_id=inferred.number,
                )
            )  # fmt: skip
