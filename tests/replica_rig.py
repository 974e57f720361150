"""Stand-ins for the workers of one model, and its replicas of them."""

from __future__ import annotations

import asyncio

from mataserver.engines.replicas import Replicas
from mataserver.engines.work import Job, LoadReport, Outcome, Timing
from mataserver.engines.worker_errors import Death, WorkerDied


class StandIn:
    """A worker that answers when the test lets it."""

    width = 1

    def __init__(self, index, *, stateful):
        self.report = LoadReport(stateful=stateful, pid=100 + index)
        self.pids = (100 + index,)
        self.is_alive = True
        self.closed = False
        self.asked = []
        self.closed_sessions = []
        self._callbacks = []

    def infer(self, jobs, answered):
        self.asked.append((jobs, answered))
        return lambda: None

    def answer(self):
        jobs, answered = self.asked.pop(0)
        answered([Outcome(job.image, Timing()) for job in jobs])

    def on_death(self, callback):
        self._callbacks.append(callback)

    def on_suspect(self, callback):
        pass

    def die(self):
        self.is_alive = False
        for _, answered in self.asked:
            answered(WorkerDied("died"))
        for callback in self._callbacks:
            callback(Death("it was shot"))

    async def close_session(self, session):
        self.closed_sessions.append(session)

    async def call(self, method, args, kwargs):
        return self.report.pid, method, args, kwargs

    async def stream(self, method, args, kwargs):
        yield method
        yield method

    async def generate(self, job):
        yield str(self.report.pid)
        yield Outcome(job.image, Timing())

    async def memory(self):
        return 10

    async def close(self):
        self.closed = True


class Rig:
    """Three replicas of stand-ins."""

    def __init__(self, *, stateful=False):
        self.workers = {}
        self.starts = []
        self.failure = None
        self.gate = asyncio.Event()
        self.gate.set()
        self._stateful = stateful
        self.replicas = Replicas(self.start, 3)

    async def start(self, index):
        self.starts.append(index)
        if self.failure is not None:
            raise self.failure
        await self.gate.wait()
        self.workers[index] = StandIn(index, stateful=self._stateful)
        return self.workers[index]

    def send(self, *, session=None):
        """Send one job; return the list that its answer comes into."""
        answers = []
        self.replicas.infer([Job(b"x", b"", session=session)], answers.append)
        return answers

    def load(self):
        return [len(each.asked) for _, each in sorted(self.workers.items())]
