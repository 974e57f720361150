"""The camera of each session that has one: made of what a service gives, counted by its state."""

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
    from mataserver.serving.feeds.shot import Shot
    from mataserver.serving.observers import Observers
    from mataserver.serving.sessions import Session, SessionStore


class CameraRegistry:
    """The cameras of a server's sessions, wherever their frames come from."""

    def __init__(self, sessions: SessionStore, metrics: Metrics, observers: Observers) -> None:
        self._sessions = sessions
        self._metrics = metrics
        self._observers = observers

    def of(self, session: Session) -> Camera | None:
        """Return the camera of a session, or None where a client sends the frames."""
        return session.camera if isinstance(session.camera, Camera) else None

    def attach(
        self,
        session: Session,
        source: SessionSource,
        fps: float | None = None,
        *,
        always: bool = False,
    ) -> None:
        """Have a session's frames come from what a service gives."""
        reconnected = self._metrics.reconnects.labels(session.model).inc
        session.camera = Camera(
            session,
            Feed(source.frames, reconnected),
            shown=source.shown,
            fps=fps,
            always=always,
            on_shot=partial(self._observed, session),
        )

    def info(self, session: Session) -> CameraInfo | None:
        """Return the state of a session's camera, if it has one."""
        camera = self.of(session)
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
        )

    async def picture(self, session: Session) -> tuple[bytes, int]:
        """Return the newest frame as a JPEG with what was found in it, and its number.

        A sign of life of the session. Raises ``NotFound`` where there is no camera, or no frame.
        """
        camera = self.of(session)
        if camera is None:
            raise NotFound(f"{session.id} has no camera")
        self._sessions.touch(session)
        shot = await camera.newest()
        return await shot.picture(session.task), shot.number

    def count(self) -> None:
        """Set the gauges of the cameras' states."""
        found = [self.of(session) for session in self._sessions.all()]
        states = [camera.feed.state for camera in found if camera is not None]
        for state in get_args(State):
            self._metrics.cameras.labels(state).set(states.count(state))

    def _observed(self, session: Session, shot: Shot) -> None:
        """Have services told of what was found in a frame."""
        if self._observers:
            self._observers.tell(
                ResultEvent(
                    "camera", session.model, session.task, shot.jpeg, shot.body, packed=True,
                    session_id=session.id, frame_id=shot.number,
                )
            )  # fmt: skip
