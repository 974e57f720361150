"""How many replicas there are to be: seconds of load in, counts out, and no swinging."""

from __future__ import annotations

import itertools
import math
import random
from collections import deque

import pytest

from mataserver.config.needs import Span
from mataserver.serving.autoscaler import DOWN_AFTER, START_RETRY_SECONDS, UP_AFTER, ScalingPolicy

SAMPLE_SECONDS = 0.25


class Model:
    """A model in a simulated time: one image after the other in each replica, then the next.

    ``arrivals(second)`` are the images that come in it, evenly; ``work`` are the seconds that one
    takes, ``loading`` those until a new replica takes part.
    """

    def __init__(self, arrivals, *, work=0.05, loading=2.0, clients=None, **span):
        self.span = Span(**span)
        self.scaler = ScalingPolicy(self.span, 0.0)
        self.counts = [(0.0, self.span.first)]
        self.waits = []
        self._arrivals, self._work, self._loading = arrivals, work, loading
        self._clients = clients
        self._step = 0.0125
        self._queue, self._busy = deque(), []
        self._coming = None

    @property
    def count(self):
        return self.counts[-1][1]

    def run(self, seconds):
        """Run so many seconds; return every count that there was, in order."""
        due = 0.0
        for number in range(round(seconds / self._step)):
            now = number * self._step
            self._busy = [end for end in self._busy if end > now]
            if self._clients is None:
                due += self._arrivals(int(now)) * self._step
                while due >= 1:
                    due -= 1
                    self._queue.append(now)
            else:
                wanted = self._clients(int(now))
                while len(self._queue) + len(self._busy) < wanted:
                    self._queue.append(now)
            self._work_on(now)
            if number % round(SAMPLE_SECONDS / self._step) == 0:
                self._look(now)
        return [count for _, count in self.counts]

    def _work_on(self, now):
        while self._queue and len(self._busy) < self.count:
            self.waits.append((now, now - self._queue.popleft()))
            self._busy.append(now + self._work)

    def _look(self, now):
        if self._coming is not None:
            ready, count = self._coming
            if now < ready:
                return
            self._coming = None
            self.counts.append((now, count))
            self.scaler.record_growth(now)
        desired_count = self.scaler.desired_count(
            len(self._queue) + len(self._busy), self.count, now
        )
        if desired_count > self.count:
            self._coming = (now + self._loading, desired_count)
        elif desired_count < self.count:
            self.counts.append((now, desired_count))
            self.scaler.record_shrink(now)

    def changes(self, since=0.0):
        """Return how often the count changed from a second on."""
        return sum(at >= since for at, _ in self.counts[1:])

    def waited(self, since):
        """Return the mean wait of what was begun from a second on."""
        found = [each for at, each in self.waits if at >= since]
        return sum(found) / len(found)


def feed(scaler, load, count, start, seconds):
    """Give a scaler a steady load; return when it wished another count, and which."""
    for tick in range(int(seconds / SAMPLE_SECONDS) + 1):
        now = start + tick * SAMPLE_SECONDS
        desired_count = scaler.desired_count(load, count, now)
        if desired_count != count:
            return now - start, desired_count
    return None


def test_more_after_three_seconds_and_fewer_after_a_minute():
    """Neither sooner, and never beyond the span."""
    span = Span(min=1, max=3, target=2)
    scaler = ScalingPolicy(span, 0.0)
    assert feed(scaler, 2.2, 1, 0.0, 600) is None  # about as many as it should have
    scaler = ScalingPolicy(span, 0.0)
    assert feed(scaler, 2.3, 1, 0.0, 600) == (UP_AFTER, 2)
    scaler.record_growth(10.0)
    assert feed(scaler, 100.0, 2, 10.0, 600) == (UP_AFTER, 3)
    scaler.record_growth(20.0)
    assert feed(scaler, 100.0, 3, 20.0, 600) is None
    took, count = feed(scaler, 0.0, 3, 620.25, 600)
    assert DOWN_AFTER <= took <= DOWN_AFTER + 2
    assert count == 2


@pytest.mark.parametrize("least", [0, 1, 2])
def test_what_is_loaded_keeps_its_least(least):
    """One that may go altogether goes by ``keep_alive``, and has one worker until then."""
    scaler = ScalingPolicy(Span(min=least, max=4, target=1), 0.0)
    assert feed(scaler, 0.0, max(1, least), 0.0, 600) is None


def test_a_burst_asks_for_nothing():
    """Thirty images that are over in a second and a half, ten times a minute."""
    model = Model(lambda second: 30 if second % 6 == 0 else 0, max=8, target=2)
    assert model.run(600) == [1]


def test_one_that_could_not_be_started_is_not_tried_at_once():
    """There may be no memory for it for a while."""
    scaler = ScalingPolicy(Span(max=4), 0.0)
    assert feed(scaler, 9.0, 1, 0.0, 60) == (UP_AFTER, 2)
    scaler.record_failed_start(3.0)
    assert feed(scaler, 9.0, 1, 3.25, 60) == (START_RETRY_SECONDS - 0.25, 2)


def test_a_load_that_comes_and_stays():
    """Two replicas are needed for 30 images a second of 50 ms: the queue is gone for good."""
    model = Model(lambda _: 30, max=8, target=2)
    model.run(1800)
    assert model.count >= 2
    assert model.changes(since=600.0) <= 6  # fewer, and back, ever more seldom
    assert model.waited(since=30.0) < 0.3


def test_a_load_between_two_counts_does_not_swing():
    """What was given up and regretted is given up more seldom: an hour has few changes."""
    model = Model(lambda _: 25, max=8, target=2)
    model.run(3600)
    assert model.changes() < 30
    assert model.changes(since=1800.0) <= 8


@pytest.mark.parametrize("clients", [1, 4, 5, 16])
def test_clients_without_a_pause(clients):
    """So many that ask again at once have as many workers as the target says, and no more."""
    model = Model(None, clients=lambda _: clients, max=16, target=2)
    model.run(900)
    assert model.count == math.ceil(clients / 2)
    assert model.changes(since=60.0) == 0


def test_clients_that_come_and_go():
    """Sixteen for two minutes, none for ten: eight workers, then one again."""
    model = Model(None, clients=lambda second: 16 * (60 <= second < 180), max=8, target=2)
    counts = model.run(900)
    assert max(counts) == 8
    up, down = counts[: counts.index(8) + 1], counts[counts.index(8) :]
    assert (up, down[-1]) == ([1, 2, 4, 8], 1)
    assert down == sorted(down, reverse=True)


AN_HOUR = (
    12, 14, 9, 11, 17, 22, 19, 15, 31, 44, 52, 47, 58, 61, 49, 66, 71, 63, 55, 68, 74, 59, 62, 48,
    51, 39, 42, 33, 28, 36, 24, 19, 21, 14, 11, 9, 6, 8, 4, 3, 2, 5, 1, 0, 0, 2, 1, 0, 0, 0, 3, 1,
    7, 12, 18, 9, 14, 21, 16, 13,
)  # fmt: skip
"""Images in a second, the mean of each minute: up, down, nearly nothing, and up again."""


@pytest.mark.parametrize("seed", range(3))
def test_an_hour_that_rises_and_falls(seed):
    """A load that rises, falls and trembles: few changes, short waits, few workers when quiet."""
    chance = random.Random(seed)
    seconds = [max(0.0, chance.gauss(mean, 0.2 * mean)) for mean in AN_HOUR for _ in range(60)]
    model = Model(lambda second: seconds[second], max=8, target=2)
    counts = model.run(3600)
    assert model.changes() <= 24
    swings = sum(
        (b - a) * (c - b) < 0 for a, b, c in zip(counts, counts[1:], counts[2:], strict=False)
    )
    assert swings <= 12
    assert model.waited(since=0.0) < 0.5
    when_quiet = [count for at, count in model.counts if at <= 49 * 60][-1]
    assert when_quiet <= 2
    spans = itertools.pairwise([*model.counts, (3600.0, 0)])
    spent = sum(count * (until - at) for (at, count), (until, _) in spans)
    assert spent < 0.6 * 8 * 3600  # of eight that were always there
