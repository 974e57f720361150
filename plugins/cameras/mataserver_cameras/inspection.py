"""What is wrong with the cameras of the configuration, found without connecting to any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import ConfigError, InvalidParams, MataError, NotFound, Unavailable
from mataserver_cameras import source as sources

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mataserver import CheckSession
    from mataserver_cameras.settings import CameraSettings, Settings


def problems(settings: Settings, session: CheckSession) -> Iterator[str]:
    """Yield what is wrong, a model that is not here too."""
    try:
        sources.AllowedSources(settings.camera_hosts, settings.camera_paths)
        check_names(settings.cameras)
    except MataError as error:
        yield error.told
    for index, camera in enumerate(settings.cameras):
        try:
            _check(camera, session)
        except MataError as error:
            yield f"cameras[{index}] {camera.name}: {error.told}"


def check(settings: Settings, session: CheckSession) -> None:
    """Raise ``ConfigError`` for cameras that will never work.

    A model that is not here yet is waited for.
    """
    check_names(settings.cameras)
    for index, camera in enumerate(settings.cameras):
        try:
            _check(camera, session)
        except InvalidParams as error:
            raise ConfigError(f"configuration: cameras[{index}]: {error.detail}") from None
        except (NotFound, Unavailable):
            continue


def check_names(cameras: list[CameraSettings]) -> None:
    """Raise ``ConfigError`` for a name that two have."""
    names = [camera.name for camera in cameras]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ConfigError(f"configuration: cameras[{index}].name: {name!r} is listed twice")


def _check(camera: CameraSettings, session: CheckSession) -> None:
    """Check what a camera reads, loads, and gives the model as params. Raises a ``MataError``."""
    sources.parse(camera.source)
    session(camera.model, camera.task, camera.params)
