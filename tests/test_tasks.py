"""Background tasks: failures are told, ends are waited for."""

from __future__ import annotations

import asyncio
import errno
import logging

from mataserver.tasks import Tasks


async def fail():
    """Raise at once."""
    raise RuntimeError("secret detail")


async def test_a_failure_is_logged_and_told(caplog):
    """The log has the traceback; what anybody may see has the task and the kind of error."""
    tasks = Tasks("lab")
    with caplog.at_level(logging.ERROR):
        await asyncio.wait([tasks.spawn(fail(), "count")])
        await asyncio.sleep(0)
    assert tasks.failed == {"count": "RuntimeError"}
    assert "secret detail" in caplog.text
    assert "lab: the task 'count' failed" in caplog.text


async def test_a_second_try_clears_the_first():
    """A task that is spawned anew is no longer told as failed, and one that returned never was."""
    tasks = Tasks("lab")
    await asyncio.wait([tasks.spawn(fail(), "count")])
    await asyncio.wait([tasks.spawn(asyncio.sleep(0), "count")])
    await asyncio.sleep(0)
    assert tasks.failed == {}


async def test_the_end_is_waited_for():
    """What runs is cancelled, and may clean up before the service is gone."""
    tasks, cleaned = Tasks("lab"), []

    async def work():
        try:
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    tasks.spawn(work(), "work")
    await asyncio.sleep(0)
    await tasks.close()
    assert cleaned == [True]
    assert tasks.failed == {}


async def test_work_that_lacks_resources_is_begun_again(monkeypatch, caplog):
    """Memory or threads that run out for a while do not end it for good; a bug does."""
    monkeypatch.setattr("mataserver.tasks.SHORTAGE_PAUSE", 0.0)
    tasks, begun = Tasks("lab"), []
    errors = [MemoryError(), RuntimeError("can't start new thread"), OSError(errno.EMFILE, "")]
    errors.append(ExceptionGroup("two", [MemoryError(), ExceptionGroup("one", [MemoryError()])]))
    errors.append(ExceptionGroup("two", [MemoryError(), ValueError()]))

    async def work():
        begun.append(True)
        raise errors.pop(0)

    await asyncio.wait([tasks.spawn(work, "count")])
    await asyncio.sleep(0)
    assert len(begun) == 5
    assert tasks.failed == {"count": "ExceptionGroup"}
    assert "lab: the task 'count' begins again in 0 s: The server is out of memory" in caplog.text
