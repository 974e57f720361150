"""Random interleavings of all that a worker is asked: each gets its own answer, once, in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import time
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from msgspec import msgpack

from conftest import picture
from mataserver import Classification, ClassifyResult, MataError, Params
from mataserver.contract.backend import LoadContext, ModelSpec
from mataserver.engines.process import ProcessEngine
from mataserver.engines.thread import ThreadEngine
from mataserver.engines.work import Assignment, Job, Placement
from mataserver.engines.worker_errors import NotDispatchedError, WorkerDied

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOON = 100.0
PLACE = Placement("interleavings", preload=(__name__,))
STEPS = 500
AT_ONCE = 12
PICTURES = [
    picture(16, 16, (0, 0, 1, 1), "JPEG"),
    picture(64, 48),
    picture(400, 300, form="JPEG"),
    picture(400, 300, compress_level=0),
    picture(1600, 1200, form="JPEG"),
    b"no picture",
]
LIKELY = [60, 20, 14, 2, 1, 3]
BLOB = bytes(range(256)) * 1200
"""More than the buffer of a socket holds."""


class Said(Params):
    """What a job is, and what happens to it.

    number: what its answer says.
    fate: how the model behaves.
    """

    number: int = 0
    fate: str = ""


class Frames:
    """Counts the frames of a session."""

    def __init__(self):
        self._count = 0

    def step(self, _image):
        """Answer a frame."""
        self._count += 1
        return ClassifyResult([Classification(str(self._count), 1.0)])


class Everything:
    """Answers a job with its number, and does what its fate says."""

    def predict(self, images, params):
        """Answer each image."""
        assert len(images) == len(params)
        for each in params:
            if each.fate == "slow":
                time.sleep(0.004)
            if each.fate == "raise":
                raise RuntimeError("a fate")
            if each.fate == "exit":
                os._exit(5)
        return [ClassifyResult([Classification(str(each.number), 1.0)]) for each in params]

    def session(self, _params):
        """Return the state of a new session."""
        return Frames()

    def stream(self, _image, params):
        """Yield words, then the answer."""
        for word in range(3):
            yield f"{params.number}.{word}"
        yield ClassifyResult([Classification(str(params.number), 1.0)])

    def numbers(self, begin, end):
        """Yield numbers."""
        yield from range(begin, end)

    def echo(self, value):
        """Return the value."""
        return value


def load(_spec, _context):
    """Load the model."""
    return Everything()


def label(outcome):
    """Return what an answer says."""
    return json.loads(outcome.whole())["classifications"][0]["label"]


@dataclass
class Batch:
    """Jobs that were sent together, and every answer that they got."""

    numbers: tuple[str, ...]
    fates: list[str]
    broken: list[bool]
    dropped: bool = False
    answers: list = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, answer):
        """Note an answer."""
        self.answers.append(answer)
        self.done.set()

    def check(self, *, died):
        """Compare the answer with what was asked."""
        (answer,) = self.answers
        if isinstance(answer, MataError):
            lost = type(answer) in {WorkerDied, NotDispatchedError}
            assert (self.dropped and answer.status == 503) or (died and lost)
            return
        assert len(answer) == len(self.numbers)
        for number, fate, broken, outcome in zip(
            self.numbers, self.fates, self.broken, answer, strict=True
        ):
            if broken or fate == "raise":
                assert outcome.failure.status == (400 if broken else 500)
            else:
                assert label(outcome) == number


class Play:
    """Asks one worker after the other; what is asked, and when, a seed says."""

    def __init__(self, engine, assignment, seed, *, crashes):
        self.engine, self.assignment, self.seed = engine, assignment, seed
        self.likely_fates = [90, 6, 3, 3 if crashes else 0]
        self.worker = None
        self.numbers = iter(range(10**9))
        self.doomed, self.deaths = set(), []
        self.tasks = set()
        self.batches = []
        self.sessions = {}

    async def run(self):
        """Take the steps; then wait for all that was asked, and compare it."""
        acts = [self.batch, self.frame, self.stream, self.text, self.call]
        async with asyncio.TaskGroup() as group:
            for number in range(STEPS):
                dice = random.Random(f"{self.seed}.{number}")
                await self.live()
                (act,) = dice.choices(acts, [55, 15, 12, 5, 8])
                task = group.create_task(act(dice))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
                await self.pause(dice)
        assert all(len(batch.answers) == 1 for batch in self.batches)
        await self.worker.close()

    async def live(self):
        """Start the next worker when there is none; sessions begin anew there."""
        if self.worker is None or not self.worker.is_alive:
            await asyncio.gather(*self.tasks)
            self.worker = await self.engine.start(self.assignment, PLACE)
            self.worker.on_death(self.deaths.append)
            self.sessions = {}

    async def pause(self, dice):
        """Let others run, for a moment or for no time at all, or hold the loop up."""
        kind = dice.randrange(40)
        if kind == 0:
            time.sleep(0.003)  # the server reads late: answers pile up
        elif kind < 4:
            await asyncio.sleep(0.002)
        elif kind < 20:
            await asyncio.sleep(0)
        most = dice.randrange(AT_ONCE)
        while len(self.tasks) > most:
            await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)

    @contextlib.contextmanager
    def until_death(self):
        """Whoever waits when its worker dies is told so, and only then."""
        worker = self.worker
        try:
            yield worker
        except WorkerDied:
            assert worker in self.doomed

    def job(self, dice, fate=""):
        """Return a job and its number."""
        number = next(self.numbers)
        (image,) = dice.choices(PICTURES, LIKELY)
        return Job(image, msgpack.encode({"number": number, "fate": fate})), str(number)

    # what is asked

    async def batch(self, dice):
        """Run a few jobs; perhaps nobody waits for them after a while."""
        fates = dice.choices(["", "slow", "raise", "exit"], self.likely_fates)
        fates += [""] * dice.choice([0, 0, 0, 1, 3])
        jobs, numbers = zip(*(self.job(dice, fate) for fate in fates), strict=True)
        batch = Batch(numbers, fates, [job.image == PICTURES[-1] for job in jobs])
        if "exit" in fates:
            self.doomed.add(self.worker)
        await self.answered(batch, jobs, None if "exit" in fates else dice)

    async def frame(self, dice):
        """Send a session's next frame, whether the last one is answered or not."""
        session = dice.choice("abc")
        sent = self.sessions[session] = self.sessions.get(session, 0) + 1
        job = Job(dice.choice(PICTURES[:3]), b"\x80", session=session)
        await self.answered(Batch((str(sent),), [""], [False]), [job])

    async def answered(self, batch, jobs, dice=None):
        """Wait for the answer of a batch, or say after a moment that nobody does."""
        self.batches.append(batch)
        worker = self.worker
        if not worker.is_alive:
            batch.take(WorkerDied("It has died since"))
        else:
            drop = worker.infer(jobs, batch.take)
            if dice is not None and not dice.randrange(5):
                await asyncio.sleep(dice.choice([0, 0, 0.001]))
                batch.dropped = True
                drop()
        await batch.done.wait()
        batch.check(died=worker in self.doomed)

    async def stream(self, dice):
        """Read numbers, quickly or slowly, to their end or not."""
        begin, count, stop = next(self.numbers), dice.randrange(6), dice.randrange(8)
        seconds, found = dice.choice([0, 0, 0.002]), []
        with self.until_death() as worker:
            items = worker.stream("numbers", (begin, begin + count), {})
            async with contextlib.aclosing(items):
                async for item in items:
                    found.append(item)
                    assert found == list(range(begin, begin + len(found)))
                    if len(found) == stop:
                        return
                    await asyncio.sleep(seconds)
            assert len(found) == count

    async def text(self, dice):
        """Read the words of an answer."""
        job, number = self.job(dice)
        with self.until_death() as worker:
            *words, last = [item async for item in worker.generate(job)]
            if job.image == PICTURES[-1]:
                assert (words, last.failure.status) == ([], 400)
            else:
                assert words == [f"{number}.{word}" for word in range(3)]
                assert label(last) == number

    async def call(self, dice):
        """Have a value come back, perhaps one that is larger than a socket's buffer."""
        value = dice.choice([next(self.numbers), BLOB])
        with self.until_death() as worker:
            assert await worker.call("echo", (value,), {}) == value


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def processes():
    """The engine that starts processes; all of them are forked from one zygote."""
    engine = ProcessEngine()
    yield engine
    await engine.close()


@pytest.mark.parametrize("seed", range(6))
async def test_each_gets_its_own_answer_once(processes, tmp_path, seed):
    """Jobs, batches, cancels, streams, calls, sessions, crashes and slow readers, interleaved."""
    assert await deaths(processes, tmp_path, seed, crashes=True)


async def test_the_same_holds_in_a_thread(tmp_path):
    """All of it but the crashes, which a thread does not survive."""
    assert not await deaths(ThreadEngine(), tmp_path, 7, crashes=False)


async def deaths(engine, tmp_path, seed, *, crashes):
    """Play; return how workers died. Of one there are one, two or three threads that decode."""
    context = LoadContext(None, "cpu", "auto", 1, tmp_path, logging.getLogger("interleavings"))
    spec = ModelSpec("everything", "classify", "pip")
    assignment = Assignment(load, Said, spec, context, 1 + seed % 3, infer_timeout=SOON)
    played = Play(engine, assignment, seed, crashes=crashes)
    async with asyncio.timeout(SOON):
        await played.run()
    return played.deaths
