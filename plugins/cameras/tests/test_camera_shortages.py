"""A camera that could not be opened for want of memory is opened once there is some."""

from __future__ import annotations

import asyncio
import logging

import pytest

from api_answers import until
from mataserver.tasks import Tasks
from mataserver_cameras.registry import CameraRegistry
from mataserver_cameras.settings import CameraSettings


class Sessions:
    """What a server makes of cameras; each method fails as often as it is told to."""

    def __init__(self, **failures):
        self.failures = failures
        self.open = []
        self.opening = asyncio.Event()
        self.opening.set()

    def _fail(self, what):
        if self.failures.get(what, 0):
            self.failures[what] -= 1
            raise MemoryError

    async def create(self, _model, *, name, **_settings):
        """Open one."""
        await self.opening.wait()
        self._fail("create")
        assert name not in self.open
        self.open.append(name)

    async def drop(self, name):
        """Close one."""
        self._fail("drop")
        self.open.remove(name)


@pytest.fixture
async def kept(monkeypatch):
    """Return what keeps cameras open in some sessions."""
    monkeypatch.setattr("mataserver.tasks.SHORTAGE_PAUSE", 0.0)
    tasks = Tasks("cameras")

    def keep(sessions, *names):
        registry = CameraRegistry(sessions, lambda source: source, logging.getLogger("c"), 0.0)
        registry.set_cameras([camera(name) for name in names])
        tasks.spawn(registry.run, "keep")
        return registry

    yield keep
    assert not tasks.failed
    await tasks.close()


def camera(name):
    """Return a camera's settings."""
    return CameraSettings(name=name, source="/srv/a.mp4", model="m")


async def test_no_memory_while_one_is_opened(kept):
    """It is tried again, and /ready waits for it."""
    sessions = Sessions(create=2)
    registry = kept(sessions, "door")
    assert registry.waiting == {"camera door": "loading"}
    await until(lambda: sessions.open == ["door"])
    await until(lambda: not registry.waiting)


async def test_no_memory_for_the_log_either(kept, monkeypatch):
    """It is tried again, though what failed could not be logged."""
    sessions = Sessions(create=2)
    logged = []

    def log(*_, **__):
        logged.append("failed")
        raise MemoryError

    monkeypatch.setattr(logging.getLogger("c"), "_log", log)
    registry = kept(sessions, "door")
    await until(lambda: sessions.open == ["door"])
    await until(lambda: not registry.waiting)
    assert len(logged) == 2


async def test_no_memory_while_one_is_closed(kept):
    """What was open stays so, what is gone is closed, and what was being opened is opened."""
    sessions = Sessions()
    registry = kept(sessions, "door", "shelf")
    await until(lambda: sessions.open == ["door", "shelf"])
    sessions.failures["drop"] = 1
    sessions.opening.clear()
    registry.set_cameras([camera("shelf"), camera("gate")])
    await until(lambda: not sessions.failures["drop"])
    sessions.opening.set()
    await until(lambda: sorted(sessions.open) == ["gate", "shelf"])
    await until(lambda: not registry.waiting)


async def test_one_that_nobody_wants_after_a_shortage(kept):
    """/ready waits for none of which the opening ended with the shortage."""
    sessions = Sessions()
    registry = kept(sessions, "door")
    await until(lambda: sessions.open == ["door"])
    sessions.opening.clear()
    registry.set_cameras([camera("door"), camera("gate")])
    await until(lambda: "gate" in registry._open_tasks)
    sessions.failures["drop"] = 1
    registry.set_cameras([])
    await until(lambda: not sessions.open)
    await until(lambda: not registry.waiting)
