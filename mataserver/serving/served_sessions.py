"""The streaming sessions for services and the server's own handlers: ``Context.sessions``."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, cast, get_args

from mataserver.contract.handles import ResultEvent
from mataserver.contract.sessions import CameraInfo
from mataserver.errors import Conflict, NotFound
from mataserver.principals import ANONYMOUS
from mataserver.serving.feeds.camera import Camera
from mataserver.serving.feeds.feed import Feed, State

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from aiohttp import web

    from mataserver.contract.sessions import SessionSource, StreamSession
    from mataserver.metrics import Metrics
    from mataserver.principals import Principal
    from mataserver.serving.feeds.inferred_frame import InferredFrame
    from mataserver.serving.models import ServedModels
    from mataserver.serving.observers import Observers
    from mataserver.serving.sessions import Session, SessionStore

    Serve = Callable[[web.Request, str], Coroutine[Any, Any, web.StreamResponse]]

_SERVICE = ANONYMOUS
"""The principal that services act as: as part of the server they see every session."""


class ServedSessions:
    """The sessions of a server, also those whose frames a service's source provides."""

    def __init__(
        self,
        store: SessionStore,
        models: ServedModels,
        metrics: Metrics,
        observers: Observers,
        serve: Serve,
    ) -> None:
        self._store = store
        self._models = models
        self._metrics = metrics
        self._observers = observers
        self.check, self.serve = models.check_session, serve
        self.drop, self.close = store.drop, store.delete

    async def create(
        self,
        model: str,
        *,
        task: str | None = None,
        params: Any = None,
        owner: Principal | None = None,
        name: str | None = None,
        source: SessionSource | None = None,
        fps: float | None = None,
        always: bool = False,
    ) -> Session:
        """Load the model and create a session that holds it."""
        handle = self._models.for_session(model, task)
        given, owned = handle.params(params), None if owner is None else owner.id
        session = await self._store.create(handle, given, name=name, owner=owned)
        if source is not None:
            session.camera = self._camera(session, source, fps, always=always)
        return session

    def _camera(
        self, session: Session, source: SessionSource, fps: float | None, *, always: bool
    ) -> Camera:
        reconnected = self._metrics.reconnects.labels(session.model).inc
        damaged = self._metrics.damaged.labels(session.model).inc
        return Camera(
            session,
            Feed(source.frames, reconnected, damaged),
            shown=source.shown,
            fps=fps,
            always=always,
            on_inferred=partial(self._publish, session),
        )

    def camera(self, session: StreamSession) -> CameraInfo | None:
        """Return the state of a session's source, None if clients send the frames."""
        camera = cast("Session", session).camera
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

    async def picture(
        self, session_id: str, principal: Principal | None = None
    ) -> tuple[bytes, int]:
        """Return the newest frame with its result drawn in, and its number.

        Extends the session's lifetime. Raises ``NotFound`` without a camera or a frame.
        """
        session = self.get(session_id, principal)
        if session.camera is None:
            raise NotFound(f"{session.id} has no camera")
        self._store.touch(session)
        inferred = await session.camera.newest()
        return await inferred.picture(session.task), inferred.number

    def get(self, session_id: str, principal: Principal | None = None) -> Session:
        """Return a session. Raises ``NotFound``."""
        return self._store.get(session_id, principal or _SERVICE)

    def list(self, principal: Principal | None = None) -> Sequence[Session]:
        """Return every session, or those visible to a principal."""
        return self._store.visible(principal or _SERVICE)

    @contextlib.contextmanager
    def attach(self, session_id: str, leave: Callable[[int, str], None]) -> Iterator[Session]:
        """Use a session until the context ends. Raises ``NotFound`` or ``Conflict``."""
        session = self.get(session_id)
        if session.connections:
            raise Conflict(f"{session.id} has a connection already")
        self._store.attach(session, leave)
        try:
            yield session
        finally:
            self._store.detach(session, leave)

    def count_cameras(self) -> None:
        """Set the gauges of the cameras' states."""
        cameras = [session.camera for session in self._store.all()]
        states = [camera.feed.state for camera in cameras if camera is not None]
        for state in get_args(State):
            self._metrics.cameras.labels(state).set(states.count(state))

    def _publish(self, session: Session, inferred: InferredFrame) -> None:
        if self._observers:
            self._observers.publish(
                ResultEvent(
                    "camera", session.model, session.task, inferred.jpeg, inferred.body,
                    packed=True, session_id=session.id, frame_id=inferred.number,
                )
            )  # fmt: skip
