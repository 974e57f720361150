"""``on_result`` of services that fail."""

from __future__ import annotations

import asyncio

from mataserver.metrics import Metrics
from mataserver.serving.observers import Observers
from mataserver.tasks import Tasks


async def test_a_service_that_always_fails_does_not_bury_the_log(caplog):
    """Of failures of one kind the first has a line with its traceback, the rest are counted."""
    failed = asyncio.Semaphore(0)

    async def on_result(event):
        failed.release()
        raise RuntimeError(f"frame {event}")

    observers, tasks = Observers(Metrics(), infer=False), Tasks("lab")
    observers.add("lab", on_result, tasks)
    for frame in range(50):
        observers.publish(frame)
        await failed.acquire()
    await tasks.close()
    (line,) = caplog.records
    assert line.getMessage() == "on_result() of the plugin lab failed: RuntimeError: frame 0"
    assert line.exc_info
