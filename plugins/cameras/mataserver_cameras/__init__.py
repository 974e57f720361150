"""Cameras: sources whose frames the server reads itself. docs/streaming.md describes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import hookimpl
from mataserver_cameras.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mataserver import CheckSession, Context
    from mataserver_cameras.api import Cameras


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.cameras``."""
    return Settings


@hookimpl
def check(settings: Settings, session: CheckSession) -> Iterable[str]:
    """Return what is wrong with the cameras, as far as it shows without connecting to them."""
    from mataserver_cameras import inspection

    return inspection.problems(settings, session)


@hookimpl
def service(ctx: Context) -> Cameras:
    """Return the service."""
    from mataserver_cameras.api import Cameras  # what only a server needs

    return Cameras(ctx)
