"""The service: what clients and the configuration name becomes a source of frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from mataserver import SessionSource
from mataserver_cameras import inspection
from mataserver_cameras import source as sources
from mataserver_cameras.messages import OpenRequest
from mataserver_cameras.reader_process import ReaderProcess
from mataserver_cameras.registry import CameraRegistry
from mataserver_cameras.routes import CameraRoutes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from mataserver import Context, Route, SourceFrame
    from mataserver_cameras.settings import Settings
    from mataserver_cameras.source import Source


class Cameras:
    """The cameras of a server. Raises ``ConfigError`` for settings that will never work."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._settings: Settings = ctx.settings
        self._allowed = self._checked(ctx.settings)
        self._registry = CameraRegistry(ctx.sessions, self._configured, ctx.log)
        self._registry.set_cameras(self._settings.cameras)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return CameraRoutes(self._ctx, self._client_source, self._registry.position).routes()

    async def __aenter__(self) -> Self:
        """Open the cameras of the configuration."""
        self._ctx.tasks.spawn(self._registry.run, "keep cameras")
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Leave the sessions to the server, which ends them all."""

    def waiting(self) -> dict[str, str]:
        """Return which cameras of the configuration are not there yet, and why."""
        return dict(self._registry.waiting)

    def reconfigure(self, settings: Settings) -> Callable[[], None]:
        """Return what has other settings count. Raises ``ConfigError``."""
        allowed = self._checked(settings)

        def apply() -> None:
            self._settings, self._allowed = settings, allowed
            self._registry.set_cameras(settings.cameras)

        return apply

    async def session_source(self, source: str, _fps: float | None) -> SessionSource:
        """Return the source that a client names. Raises ``InvalidParams``."""
        return await self._client_source(source)

    async def _client_source(self, address: str) -> SessionSource:
        """Return the source that a client names. Raises ``InvalidParams``."""
        found = sources.parse(address)
        await self._ctx.run_blocking(self._allowed.check, found)
        return self._read(found)

    def _checked(self, settings: Settings) -> sources.AllowedSources:
        """Check settings; return what clients may name by them."""
        allowed = sources.AllowedSources(settings.camera_hosts, settings.camera_paths)
        inspection.check(settings, self._ctx.sessions.check)
        return allowed

    def _configured(self, address: str) -> SessionSource:
        return self._read(sources.parse(address))

    def _read(self, source: Source) -> SessionSource:
        """Return what reads a source, in a child of its own for each connection."""

        async def frames() -> AsyncGenerator[bytes | SourceFrame]:
            timeout, pixels = self._settings.camera_timeout, self._ctx.server.max_pixels
            link = await ReaderProcess.start(OpenRequest(source.url, source.kind, timeout, pixels))
            try:
                while True:
                    yield await link.frame()
            finally:
                await link.close()

        return SessionSource(frames, source.shown)
