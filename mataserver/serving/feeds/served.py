"""The sessions' interface for services: create, feed, view, close."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from mataserver.errors import Conflict
from mataserver.principals import ANONYMOUS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from aiohttp import web

    from mataserver.contract.sessions import CameraInfo, SessionSource, StreamSession
    from mataserver.principals import Principal
    from mataserver.serving.feeds.registry import CameraRegistry
    from mataserver.serving.models import ServedModels
    from mataserver.serving.sessions import Session, SessionStore

    Serve = Callable[[web.Request, str], Coroutine[Any, Any, web.StreamResponse]]

_SERVICE = ANONYMOUS
"""The principal that services act as: as part of the server they see every session."""


class ServedSessions:
    """The sessions' interface for services: ``Context.sessions``."""

    def __init__(
        self, store: SessionStore, models: ServedModels, cameras: CameraRegistry, serve: Serve
    ) -> None:
        self._store = store
        self._models = models
        self._cameras = cameras
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
        owned = None if owner is None else owner.id
        given = handle.params(params)
        session = await self._store.create(handle, given, name=name, owner=owned)
        if source is not None:
            self._cameras.attach(session, source, fps, always=always)
        return session

    def camera(self, session: StreamSession) -> CameraInfo | None:
        """Return the state of a session's source, None if clients send the frames."""
        return self._cameras.info(self._store.get(session.id))

    async def picture(
        self, session_id: str, principal: Principal | None = None
    ) -> tuple[bytes, int]:
        """Return the newest frame with its result drawn in, and its number."""
        return await self._cameras.picture(self.get(session_id, principal))

    def get(self, session_id: str, principal: Principal | None = None) -> Session:
        """Return a session. Raises ``NotFound``."""
        return self._store.get(session_id, principal or _SERVICE)

    def list(self, principal: Principal | None = None) -> Sequence[Session]:
        """Return every session, or those visible to a principal."""
        viewer = principal or _SERVICE
        return [each for each in self._store.all() if each.is_visible_to(viewer)]

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
