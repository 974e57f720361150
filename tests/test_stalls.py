"""What holds up the event loop is told while it does, by file and line."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

from mataserver.app import stalls


async def test_who_holds_up_the_loop_is_told(caplog):
    """Once, with where it is: the sentence names the function, the traceback leads to it."""

    def careless():
        """Wait without ``await``, until it is told, and then for a while longer."""
        while not caplog.records:
            time.sleep(0.01)
        time.sleep(0.5)

    task = asyncio.create_task(stalls.watch(0.1))
    await asyncio.sleep(0)
    careless()
    task.cancel()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "the event loop is held up" in record.getMessage()
    assert f"by {__file__}, line " in record.getMessage()
    assert record.getMessage().partition(", in ")[2].startswith("careless;")
    assert "time.sleep" in caplog.text


async def test_a_loop_that_waits_is_not_held_up(caplog):
    """What awaits is no fault, however long it takes, nor what waits in a thread."""
    task = asyncio.create_task(stalls.watch(0.1))
    await asyncio.to_thread(time.sleep, 0.5)
    await asyncio.sleep(0.5)
    task.cancel()
    assert not caplog.records


async def test_the_watch_ends_with_its_task():
    """Its thread is gone soon after."""

    def watchers():
        return [each for each in threading.enumerate() if each.name == "watches the event loop"]

    before = len(watchers())
    task = asyncio.create_task(stalls.watch(0.1))
    await asyncio.sleep(0.05)
    assert len(watchers()) == before + 1
    task.cancel()
    while len(watchers()) > before:
        await asyncio.sleep(0.01)
