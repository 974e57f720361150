"""The cameras of the configuration: opened, kept open, and updated when it is reloaded."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from mataserver import MataError

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping

    from mataserver import Sessions, SessionSource
    from mataserver_cameras.settings import CameraSettings

RETRY_SECONDS = 30.0
"""Seconds until a camera whose session could not be made is tried again."""


class CameraRegistry:
    """The cameras that are to be there. ``waiting`` is what is not ready and why."""

    def __init__(
        self,
        sessions: Sessions,
        source: Callable[[str], SessionSource],
        log: logging.Logger,
        retry: float = RETRY_SECONDS,
    ) -> None:
        self.waiting: dict[str, str] = {}
        self._sessions = sessions
        self._source = source
        self._log = log
        self._retry = retry
        self._wanted: Mapping[str, CameraSettings] = {}
        self._open_tasks: dict[str, tuple[CameraSettings, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()

    def set_cameras(self, cameras: list[CameraSettings]) -> None:
        """Have ``run`` open and close cameras until these are there."""
        self._wanted = {camera.name: camera for camera in cameras}
        for camera in cameras:
            if self._open_tasks.get(camera.name, (None,))[0] != camera:
                self.waiting[_ready_name(camera)] = "loading"
        self._changed.set()

    def position(self, name: str) -> int:
        """Return a camera's place in the configuration; others come after those listed there."""
        names = list(self._wanted)
        return names.index(name) if name in self._wanted else len(names)

    async def run(self) -> None:
        """Keep the cameras open; one that fails is tried again for ever."""
        try:
            while True:
                self._changed.clear()
                await self._apply_configuration()
                await self._changed.wait()
        finally:
            tasks = {name: task for name, (_, task) in self._open_tasks.items()}
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
            for name, task in tasks.items():
                if task.cancelled():
                    del self._open_tasks[name]  # this may be begun again, after a shortage

    async def _apply_configuration(self) -> None:
        """Close the cameras that are gone or changed, and open those that are not open."""
        wanted = self._wanted
        known = [*wanted.values(), *(camera for camera, _ in self._open_tasks.values())]
        for ready_name in self.waiting.keys() - set(map(_ready_name, known)):
            del self.waiting[ready_name]  # its opening ended when this did, and nobody wants it now
        for name, (camera, task) in list(self._open_tasks.items()):
            if wanted.get(name) != camera:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await self._sessions.drop(name)
                del self._open_tasks[name]
                self.waiting.pop(_ready_name(camera), None)
        for name, camera in wanted.items():
            if name not in self._open_tasks:
                self.waiting[_ready_name(camera)] = "loading"
                task = asyncio.create_task(self._open_with_retries(camera))
                self._open_tasks[name] = (camera, task)

    async def _open_with_retries(self, camera: CameraSettings) -> None:
        ready_name = _ready_name(camera)
        while True:
            try:
                await self._open(camera)
            except MataError as error:
                self.waiting[ready_name] = error.detail
                with contextlib.suppress(MemoryError):
                    self._log.error("%s: %s", ready_name, error.detail)
            except Exception as error:  # noqa: BLE001 - nobody else tries again; shortages pass
                self.waiting[ready_name] = "could not be opened"
                with contextlib.suppress(MemoryError):  # the log needs some, too
                    self._log.error("%s could not be opened", ready_name, exc_info=error)
            else:
                self.waiting.pop(ready_name, None)
                return
            await asyncio.sleep(self._retry)

    async def _open(self, camera: CameraSettings) -> None:
        await self._sessions.create(
            camera.model,
            task=camera.task,
            params=camera.params,
            name=camera.name,
            source=self._source(camera.source),
            fps=camera.fps,
            always=camera.always,
        )


def _ready_name(camera: CameraSettings) -> str:
    """Return what ``/ready`` calls a camera."""
    return f"camera {camera.name}"
