"""The threads of a worker process: who reads, who decodes, and who runs the model.

One of them alone calls the model, whose libraries may keep what belongs to a thread. It leads by
preference: to lead is to read the socket. While work is quick it reads, decodes, runs the model and
answers in a row, and nothing is handed from thread to thread. When more has come than it can do at
once, unless each is done in no time, or what comes may take long, it hands the lead on first. Then
a follower reads and decodes beside it, and gives the lead back with an order that comes alone once
work is quick again.

Orders are done in the sequence in which they came, whoever has decoded them.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mataserver.engines import wire
from mataserver.engines.accidents import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mataserver.engines.host import Decoded
    from mataserver.engines.line import Line
    from mataserver.engines.work import Job

QUICK = 0.003
"""Seconds of an order up to which others may wait to be read meanwhile."""

TINY = 0.0003
"""Seconds of an order up to which no other thread is woken for the next: that would cost about as
much as the order does."""

FAILED = Failure(500, "The model failed")

log = logging.getLogger("mataserver.worker")


@dataclass(slots=True, eq=False)
class Order:
    """What the model's thread does in its turn: ``work``, given what its ``jobs`` decoded to.

    ``request`` is its number, 0 where nobody waits for an answer. One that is not ``brief`` may
    take long, whatever the last one took.
    """

    request: int
    work: Callable[[list[Decoded]], None]
    jobs: Sequence[Job] = ()
    brief: bool = True
    decoded: dict[int, Decoded] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether all of it is decoded."""
        return len(self.decoded) == len(self.jobs)


@dataclass(slots=True, eq=False)
class Tempo:
    """Whether orders are ``quick`` of late, and even done in no time: they take less than ``tiny``.

    ``limit`` and ``trifle`` are the seconds for that.
    """

    limit: float
    trifle: float
    quick: bool = False
    tiny: bool = False
    slow_before: bool = True

    def note(self, seconds: float) -> None:
        """Learn from an order: one that was held up by chance among quick ones makes none slow."""
        slow = seconds >= self.limit
        self.quick = not (slow and self.slow_before)
        self.slow_before = slow
        self.tiny = seconds < self.trifle


class Crew:
    """Takes orders from the socket to their work; the thread that calls ``run`` is the model's.

    ``plan`` returns the order that a message or a batch is, None for the last one. ``decode`` runs
    in several threads at once and must not raise; an order whose work raises is answered as failed.
    There are ``decoders`` followers, but one at least: without decoders nothing is decoded beside
    what is quick, which is what takes less than ``quick`` seconds, and beside what takes less than
    ``tiny`` nothing ever is.
    """

    def __init__(
        self,
        line: Line,
        plan: Callable[[wire.Received | list[Job]], Order | None],
        decode: Callable[[Job], Decoded],
        decoders: int,
        quick: float = QUICK,
        tiny: float = TINY,
    ) -> None:
        self._line = line
        self._plan = plan
        self._decode = decode
        self._alone = decoders < 1
        self._tempo = Tempo(quick, tiny)
        self._orders: deque[Order] = deque()
        self._undecoded: deque[tuple[Order, int]] = deque()
        self._lead = threading.Lock()
        self._kept: deque[None] = deque()  # an entry: the model's thread leads, but does not read
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._arrival = select.poll()
        self._arrival.register(line.sock, select.POLLIN)
        self._asleep, self._ending = False, False
        self.busy, self.request = False, 0
        self._take_in()  # what was read with the first message
        for _ in range(max(decoders, 1)):
            threading.Thread(target=self._follow, name="follower", daemon=True).start()

    @property
    def behind(self) -> bool:
        """Whether orders wait that will not be done in no time."""
        return bool(self._orders) and not self._tempo.quick

    def run(self) -> None:
        """Do what comes, up to the last message."""
        while self._orders or not self._ending:
            self._step()

    def hand_on(self) -> None:
        """Let a follower read if the model's thread leads, and is at an order."""
        try:
            self._kept.pop()
        except IndexError:
            return
        self._lead.release()

    # the model's thread

    def _step(self) -> None:
        if not self._orders:
            self._hear()
        elif self._orders[0].ready:
            self._do(self._orders.popleft())
        elif (found := self._pick()) is not None:
            if self._undecoded and not (self._tempo.tiny or self._alone):
                self.hand_on()  # what came was thought to be done in no time
            self._complete(*found)
        elif not self._look():
            self._sleep()

    def _hear(self) -> None:
        """Read what is to be done, or have it read."""
        if not self._claim():
            self._sleep()
            return
        self._read()
        if self._tempo.quick and (self._alone or self._tempo.tiny or len(self._undecoded) < 2):
            self._kept.append(None)
        else:
            self._lead.release()

    def _look(self) -> bool:
        """Take in what has come while others decode; False where that is nothing."""
        if not self._claim():
            return False
        found = bool(self._arrival.poll(0)) and self._fetch()
        self._lead.release()
        return found

    def _claim(self) -> bool:
        """Take the lead up that was kept, given back or left; False where a follower has it."""
        try:
            self._kept.pop()
        except IndexError:
            return self._lead.acquire(blocking=False)
        return True

    def _sleep(self) -> None:
        """Wait for something to do; who sees that it sleeps rings once what there is is there."""
        self._asleep = True
        orders = self._orders
        if not (self._kept or self._undecoded or (orders[0].ready if orders else self._ending)):
            self._bell.get()
        self._asleep = False

    def _do(self, order: Order) -> None:
        begun = time.perf_counter()
        self.busy, self.request = True, order.request
        try:
            order.work([order.decoded[index] for index in range(len(order.jobs))])
        except Exception:
            log.exception("work failed")
            if order.request:
                self._line.reply(wire.Raised(order.request, FAILED))
        self.busy = False
        seconds = time.perf_counter() - begun
        for each in order.decoded.values():
            seconds += each.decode_ms / 1e3
        self._tempo.note(seconds)

    # followers

    def _follow(self) -> None:
        try:
            while self._take_turn():
                continue
        except BaseException:
            log.exception("what the server says cannot be read")
            os._exit(1)  # at once: a worker that hears nothing would be taken for one that hangs

    def _take_turn(self) -> bool:
        """Read until there is something to decode, and decode it; False when there is no more."""
        self._lead.acquire()
        found = self._pick()
        while found is None and not self._ending:
            self._read()
            found = self._share()
        self._lead.release()
        if found is not None:
            self._complete(*found)
            if found[0].ready:
                self._ring()
        return found is not None

    def _share(self) -> tuple[Order, int] | None:
        """Wake the model's thread, if it sleeps, for the first of what was read; pick another."""
        if not self._asleep:
            return self._pick()
        if self._tempo.quick and len(self._undecoded) < 2 and not self._ending:
            self._kept.append(None)
            self._ring()
            self._lead.acquire()  # as soon as it is handed on
            return self._pick()
        self._ring()
        return self._pick() if len(self._undecoded) > 1 else None

    def _ring(self) -> None:
        if self._asleep:
            self._asleep = False
            self._bell.put(None)

    # whoever leads

    def _read(self) -> None:
        """Wait for something to do, unless the last message has come."""
        while not self._ending:
            self._arrival.poll()
            if self._fetch():
                break

    def _fetch(self) -> bool:
        """Take in what is here, and return whether that is something to do."""
        if not self._line.fetch():
            os._exit(0)  # the server is gone: nobody waits, a hung model holds nothing
        return self._take_in()

    def _take_in(self) -> bool:
        taken = False
        while (received := self._line.take()) is not None:
            order = self._plan(received)
            taken = True
            if order is None:
                self._ending = True
                break
            if not order.brief:
                self._tempo.quick = self._tempo.tiny = False
            self._orders.append(order)
            for index in range(len(order.jobs)):
                self._undecoded.append((order, index))
        return taken

    # whoever decodes

    def _pick(self) -> tuple[Order, int] | None:
        try:
            return self._undecoded.popleft()
        except IndexError:
            return None

    def _complete(self, order: Order, index: int) -> None:
        order.decoded[index] = self._decode(order.jobs[index])
