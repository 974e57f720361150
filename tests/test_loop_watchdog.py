"""What holds up the event loop is told while it does, by file and line."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref

import pytest

from mataserver.app import loop_watchdog


async def test_who_holds_up_the_loop_is_told(caplog):
    """Once, with where it is: the sentence names the function, the traceback leads to it."""

    def careless():
        """Wait without ``await``, until it is told, and then for a while longer."""
        while not caplog.records:
            time.sleep(0.01)
        time.sleep(0.5)

    task = asyncio.create_task(loop_watchdog.watch(0.1))
    await asyncio.sleep(0)
    careless()
    task.cancel()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "the event loop is held up" in record.getMessage()
    assert f"by {__file__}, line " in record.getMessage()
    assert record.getMessage().partition(", in ")[2].startswith("careless;")
    assert "time.sleep" in caplog.text


class _Forgetful(logging.Handler):
    """Keeps the text of what is told, not the record, whose traceback holds every variable."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        """Write it down."""
        self.texts.append(self.format(record))


@pytest.fixture
def told(monkeypatch):
    """What the watcher says, as texts."""
    handler = _Forgetful()
    # Of a logger that is in the tree, the tests' own handler would keep the records.
    apart = logging.Logger("apart")  # noqa: LOG001
    apart.addHandler(handler)
    monkeypatch.setattr(loop_watchdog, "log", apart)
    return handler.texts


async def test_what_held_up_the_loop_is_not_kept(told):
    """Once it is over and told, its variables are free, such as a body; the watch goes on."""

    class Body:
        """What a weak reference can follow."""

    def careless():
        """Hold a body until it is told."""
        body = Body()
        while not told:
            time.sleep(0.01)
        return weakref.ref(body)

    task = asyncio.create_task(loop_watchdog.watch(0.1))
    await asyncio.sleep(0)
    kept = careless()
    async with asyncio.timeout(10):
        while kept() is not None:
            await asyncio.sleep(0.01)
    task.cancel()


async def test_code_without_lines_is_told_too(told):
    """A compiler may leave them out, and the watcher lives on."""

    def careless():
        """Wait without ``await``, until it is told or its time is up."""
        end = time.monotonic() + 10
        while not told and time.monotonic() < end:
            time.sleep(0.01)

    code = careless.__code__
    full, rest = divmod(len(code.co_code) // 2, 8)
    unknown = b"\xff" * full + bytes([0xF8 | rest - 1] if rest else [])  # eight units each
    careless.__code__ = code.replace(co_linetable=unknown)
    task = asyncio.create_task(loop_watchdog.watch(0.1))
    await asyncio.sleep(0)
    careless()
    task.cancel()
    (text,) = told
    assert "line 0, in careless;" in text


async def test_a_loop_that_waits_is_not_held_up(caplog):
    """What awaits is no fault, however long it takes, nor what waits in a thread.

    A busy machine may hold up the loop for some tenths of a second, too: not for two.
    """
    task = asyncio.create_task(loop_watchdog.watch(2))
    await asyncio.gather(asyncio.to_thread(time.sleep, 2.5), asyncio.sleep(2.5))
    task.cancel()
    assert not caplog.records


async def test_the_watch_ends_with_its_task():
    """Its thread is gone soon after."""

    def watchers():
        return [each for each in threading.enumerate() if each.name == "watches the event loop"]

    before = len(watchers())
    task = asyncio.create_task(loop_watchdog.watch(0.1))
    await asyncio.sleep(0.05)
    assert len(watchers()) == before + 1
    task.cancel()
    while len(watchers()) > before:
        await asyncio.sleep(0.01)
