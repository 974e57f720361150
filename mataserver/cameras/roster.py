"""Every camera of the server: those of the configuration, and those that clients ask for."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from functools import partial
from typing import TYPE_CHECKING, get_args

from mataserver.cameras import source as sources
from mataserver.cameras.camera import LINGER, Camera
from mataserver.cameras.drawn import Drawn
from mataserver.cameras.feed import Feed, State
from mataserver.cameras.link import Link
from mataserver.cameras.messages import Opening
from mataserver.config import ConfigError
from mataserver.errors import InvalidParams, MataError, NotFound, Unavailable
from mataserver.handles import ResultEvent, SessionSource
from mataserver.services import recipe_of_session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mataserver.cameras.feed import Connection
    from mataserver.cameras.shot import Shot
    from mataserver.cameras.source import Source
    from mataserver.config import CameraSettings, Settings
    from mataserver.library.catalog import Catalog
    from mataserver.metrics import Metrics
    from mataserver.observers import Observers
    from mataserver.services import ServedModels
    from mataserver.sessions import Session, SessionStore

NEEDS = "A camera needs a package: pip install 'mataserver[camera]'"

log = logging.getLogger("mataserver.cameras")


def readable() -> bool:
    """Whether the package that reads cameras is installed."""
    return importlib.util.find_spec("av") is not None


class Roster:
    """The cameras."""

    def __init__(
        self,
        settings: Settings,
        models: ServedModels,
        sessions: SessionStore,
        metrics: Metrics,
        observers: Observers,
        *,
        linger: float = LINGER,
        installed: Callable[[], bool] = readable,
    ) -> None:
        self._settings = settings
        self._models = models
        self._sessions = sessions
        self._metrics = metrics
        self._observers = observers
        self._linger = linger
        self._installed = installed
        self._changed = asyncio.Event()
        self._allowed = sources.Allowed(settings.camera_hosts, settings.camera_paths)

    def of(self, session: Session) -> Camera | None:
        """Return the camera of a session, or None where a client sends the frames."""
        return session.camera if isinstance(session.camera, Camera) else None

    def check(self, not_ready: dict[str, str]) -> None:
        """Check the cameras of the configuration; ``/ready`` waits for their models.

        Raises ``ConfigError`` or ``MataError`` for what will never work; a model that is not here
        yet is waited for.
        """
        for camera in self._settings.cameras:
            not_ready[_place(camera)] = "loading"
        self.check_settings(self._settings)

    def check_settings(self, settings: Settings) -> None:
        """Raise ``ConfigError`` or ``MataError`` for cameras that will never work."""
        if settings.cameras and not self._installed():
            raise MataError(NEEDS)
        for index, camera in enumerate(settings.cameras):
            try:
                check_camera(camera, self._models.catalog, self._settings.max_tokens)
            except InvalidParams as error:
                detail = f"configuration: cameras[{index}]: {error.detail}"
                raise ConfigError(detail) from None
            except (NotFound, Unavailable):
                continue

    async def permitted(self, address: str) -> Source:
        """Return the source that a client names. Raises ``InvalidParams`` or ``Unavailable``."""
        source = sources.parse(address)
        await asyncio.to_thread(self._allowed.check, source)
        if not self._installed():
            raise Unavailable(NEEDS)
        return source

    def give(
        self,
        session: Session,
        source: Source | SessionSource,
        fps: float | None = None,
        *,
        always: bool = False,
    ) -> None:
        """Have a session's frames come from a camera, or from what a service gives."""
        reconnected = self._metrics.reconnects.labels(session.model).inc
        session.camera = Camera(
            session,
            Feed(self._connect(source), on_reconnect=reconnected),
            shown=source.shown,
            fps=fps,
            always=always,
            linger=self._linger,
            on_shot=partial(self._observed, session),
        )

    def _connect(self, source: Source | SessionSource) -> Callable[[], Awaitable[Connection]]:
        """Return what connects to a source."""
        if isinstance(source, SessionSource):
            return partial(Drawn.start, source.frames)
        settings = self._settings
        opening = Opening(source.url, source.kind, settings.camera_timeout, settings.max_pixels)
        return partial(Link.start, opening)

    def _observed(self, session: Session, shot: Shot) -> None:
        """Have services told of what was found in a frame."""
        if self._observers:
            self._observers.tell(
                ResultEvent(
                    "camera", session.model, session.task, shot.jpeg, shot.body, packed=True,
                    session_id=session.id, frame_id=shot.number,
                )
            )  # fmt: skip

    def change(self, settings: Settings) -> None:
        """Have ``keep`` open and close cameras as other settings say."""
        self._settings = settings
        self._changed.set()

    async def keep(self, not_ready: dict[str, str], retry: float) -> None:
        """Keep the cameras of the configuration open; one that fails is tried again for ever."""
        kept: dict[str, tuple[CameraSettings, asyncio.Task[None]]] = {}
        try:
            while True:
                self._changed.clear()
                await self._follow(kept, not_ready, retry)
                await self._changed.wait()
        finally:
            for _, task in kept.values():
                task.cancel()
            await asyncio.gather(*(task for _, task in kept.values()), return_exceptions=True)

    async def _follow(
        self,
        kept: dict[str, tuple[CameraSettings, asyncio.Task[None]]],
        not_ready: dict[str, str],
        retry: float,
    ) -> None:
        """Close the cameras that are gone or changed, and open those that are not open."""
        wanted = {camera.name: camera for camera in self._settings.cameras}
        for name, (camera, task) in list(kept.items()):
            if wanted.get(name) != camera:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                del kept[name]
                not_ready.pop(_place(camera), None)
                await self._sessions.drop(name)
        for name, camera in wanted.items():
            if name not in kept:
                not_ready[_place(camera)] = "loading"
                task = asyncio.create_task(self._keep(camera, not_ready, retry))
                task.add_done_callback(_tell_failure)
                kept[name] = (camera, task)

    def count(self) -> None:
        """Set the gauges of the cameras' states."""
        found = [self.of(session) for session in self._sessions.all()]
        states = [camera.feed.state for camera in found if camera is not None]
        for state in get_args(State):
            self._metrics.cameras.labels(state).set(states.count(state))

    async def _keep(self, camera: CameraSettings, not_ready: dict[str, str], retry: float) -> None:
        place = _place(camera)
        while True:
            try:
                await self._open(camera)
            except MataError as error:
                log.error("%s: %s", place, error.detail)  # noqa: TRY400 - the operator's, not a bug
                not_ready[place] = error.detail
                await asyncio.sleep(retry)
            else:
                not_ready.pop(place, None)
                return

    async def _open(self, camera: CameraSettings) -> None:
        source = sources.parse(camera.source)
        model = self._models.of_session(camera.model, camera.task)
        params = model.params(camera.params)
        session = await self._sessions.create(model, params, name=camera.name)
        self.give(session, source, camera.fps, always=camera.always)


def check_camera(camera: CameraSettings, catalog: Catalog, max_tokens: int) -> None:
    """Check what a camera of the configuration reads, loads, and gives the model as params.

    Raises ``InvalidParams`` for what will never work, ``NotFound`` or ``Unavailable`` for a model
    that is not here.
    """
    sources.parse(camera.source)
    recipe = recipe_of_session(catalog, camera.model, camera.task)
    recipe.params(camera.params, max_tokens)


def _place(camera: CameraSettings) -> str:
    """Return what ``/ready`` calls a camera."""
    return f"camera {camera.name}"


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a camera could not be kept", exc_info=task.exception())
