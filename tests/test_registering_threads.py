"""Registrations in threads: beside the plans that the event loop makes, and before a lock."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mataserver import config, testing
from mataserver import plugins as plugin_host
from mataserver.library import plans, weights
from mataserver.library.catalog import Catalog
from mataserver.library.registry import Entry, Registry
from test_reregistration import POINT


def catalog(folder, point):
    """Return a catalogue with one plugin on a data directory."""
    settings = config.load(environ={}, directory=folder, data_dir=str(folder))
    found = plugin_host.discover(settings, [point])
    return Catalog(settings, Registry(folder / "model_registry.json"), found)


def entry(folder, name):
    """Return the entry of a directory."""
    (folder / name).mkdir()
    return Entry(task="vlm", source="local", pulled_at=time.time(), path=str(folder / name))


@pytest.mark.parametrize("model", ["placed", "whole"])
def test_what_is_registered_while_a_plan_is_made_is_served(model, tmp_path, monkeypatch):
    """The plan of the former files is not kept, for the model itself or for what has it as part."""
    made = catalog(tmp_path, POINT)
    made.registry.add("whole", Entry(task="vlm", source="pip", pulled_at=time.time()))
    made.registry.add("placed", entry(tmp_path, "old"))
    new, size = entry(tmp_path, "new"), weights.size

    def registers(name, known):
        if name == "placed" and known.path != new.path:
            thread = threading.Thread(target=made.registry.add, args=("placed", new))
            thread.start()
            thread.join()
        return size(name, known)

    def place():
        (found,) = (
            each.spec.path for each in made.plan(model).with_parts if each.spec.name == "placed"
        )
        return found.name

    monkeypatch.setattr(plans, "CACHE_SECONDS", 0)
    monkeypatch.setattr(weights, "size", registers)
    assert place() == "old"
    assert [place() for _ in range(3)] == ["new"] * 3


async def test_an_ended_pull_leaves_no_former_plan(tmp_path, monkeypatch):
    """One that the loop began before, and kept after, the thread's registration is dropped."""
    made = catalog(tmp_path, testing.FAKE)
    made.registry.add("fake-detect", Entry(task="detect", source="pip", pulled_at=0.0))
    registering, planning, registered = asyncio.Event(), threading.Event(), threading.Event()
    loop, add, size = asyncio.get_running_loop(), made.registry.add, weights.size

    def adds(name, known):
        loop.call_soon_threadsafe(registering.set)
        assert planning.wait(20)
        add(name, known)

    def slow(name, known):
        planning.set()
        assert registered.wait(20)
        return size(name, known)

    def files(name, known):  # what a registration looks at last
        if known.pulled_at and threading.current_thread() is not threading.main_thread():
            registered.set()
        return found(name, known)

    found = weights.files
    monkeypatch.setattr(plans, "CACHE_SECONDS", 3600)
    monkeypatch.setattr(made.registry, "add", adds)
    monkeypatch.setattr(weights, "files", files)
    pull = asyncio.create_task(made.pull("fake-detect", "detect"))
    await registering.wait()
    with monkeypatch.context() as patched:
        patched.setattr(weights, "size", slow)
        former = made.plan("fake-detect")
    assert made.plan("fake-detect") is former
    await pull
    assert made.plan("fake-detect") is not former


async def test_changes_that_wait_for_the_lock_leave_threads_to_others(tmp_path):
    """Several pulls and removals, while another program holds the lock, take one thread."""
    made = catalog(tmp_path, testing.FAKE)
    for name in ("a", "b"):
        made.registry.add(name, Entry(task="detect", source="hf", pulled_at=0.0))
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))

    async def remove(name):
        async with made.removing(name, 0):
            pass

    lock = os.open(tmp_path / "model_registry.json.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    given_back = threading.Timer(20, fcntl.flock, (lock, fcntl.LOCK_UN))
    given_back.start()
    try:
        changes = [
            asyncio.create_task(each)
            for each in (made.pull("fake-detect", "detect"), remove("a"), remove("b"))
        ]
        await asyncio.sleep(0.1)
        assert await asyncio.to_thread(given_back.is_alive)
        assert not any(each.done() for each in changes)
    finally:
        given_back.cancel()
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
    await asyncio.gather(*changes)
    assert set(made.entries()) == {"fake-detect"}
