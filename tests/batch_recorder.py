"""A worker that records its batches, and a batcher with it."""

from __future__ import annotations

import asyncio

from mataserver.engines.work import Job, LoadReport, Outcome, Timing
from mataserver.engines.worker_errors import WorkerDied
from mataserver.serving.batching import Batcher


class Recorder:
    """A worker that notes its batches and answers when the test lets it."""

    def __init__(self):
        self.report = LoadReport(stateful=False, pid=1)
        self.width, self.pids = 1, (1,)
        self.doubt = None
        self.is_alive = True
        self.batches = []
        self.dropped = []
        self.timing = Timing(infer=10.0)
        self.failure = None
        self.tasks = []
        self.gate = asyncio.Event()
        self.gate.set()

    def on_suspect(self, callback):
        self.doubt = lambda *, suspect: callback(suspect)

    def infer(self, jobs, answered):
        images = [job.image for job in jobs]
        self.batches.append(images)
        self.tasks.append(asyncio.create_task(self._answer(jobs, answered)))
        return lambda: self.dropped.append(images)

    async def _answer(self, jobs, answered):
        await self.gate.wait()
        if self.is_alive:
            answered([Outcome(job.image, self.timing, self.failure) for job in jobs])
        else:
            answered(WorkerDied("died"))


def batcher(worker, **options):
    """Return a batcher with small limits."""
    defaults = {"max_batch": 4, "max_wait": 0.0, "queue_limit": 8}
    return Batcher(worker, **{**defaults, **options})


def submit(made, *names):
    """Submit a job per name, in order."""
    return [asyncio.create_task(made.submit(Job(name.encode(), b""))) for name in names]


async def sent_at_once(worker, made):
    """Submit two dozen jobs and return how many batches the worker is given before it answers."""
    before = len(worker.batches)
    worker.gate.clear()
    jobs = submit(made, *(str(number) for number in range(24)))
    await asyncio.sleep(0.01)
    sent = len(worker.batches) - before
    worker.gate.set()
    await asyncio.gather(*jobs)
    return sent
