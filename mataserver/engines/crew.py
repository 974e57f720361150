"""The threads of a worker process: which one reads, which decode, and which runs the model.

A single thread calls the model, since its libraries may keep thread-local state. By preference that
thread is also the leader, the one that reads the socket. While work is quick it reads, decodes,
runs the model and answers without any hand-off between threads. Before work that may take long, or
if more work is queued than takes next to no time, it first passes the lead on. A follower then
reads and decodes concurrently, and passes the lead back with an order that arrives alone once work
is quick again.

Orders run in arrival order, whichever thread decoded them.
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
from mataserver.engines.worker_errors import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mataserver.engines.host import Decoded
    from mataserver.engines.line import Line
    from mataserver.engines.work import Job

QUICK = 0.003
"""An order up to this many seconds may delay reading the next ones."""

TINY = 0.0003
"""Up to this many seconds per order no other thread is woken for the next one: the wake-up would
cost about as much as the order."""

FAILED = Failure(500, "The model failed")

log = logging.getLogger("mataserver.worker")


@dataclass(slots=True, eq=False)
class Order:
    """One unit of work for the model's thread: ``work``, called with its decoded ``jobs``.

    ``request`` is its number, 0 if no answer is expected. An order that is not ``brief`` may take
    long, whatever the previous one took.
    """

    request: int
    work: Callable[[list[Decoded]], None]
    jobs: Sequence[Job] = ()
    brief: bool = True
    decoded: dict[int, Decoded] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether all jobs are decoded."""
        return len(self.decoded) == len(self.jobs)


@dataclass(slots=True, eq=False)
class Tempo:
    """Whether recent orders are ``quick`` (under ``limit`` s), or ``tiny`` (under ``trifle`` s)."""

    limit: float
    trifle: float
    quick: bool = False
    tiny: bool = False
    slow_before: bool = True

    def note(self, seconds: float) -> None:
        """Record an order's duration; one slow order among quick ones changes nothing."""
        slow = seconds >= self.limit
        self.quick = not (slow and self.slow_before)
        self.slow_before = slow
        self.tiny = seconds < self.trifle


class Crew:
    """Moves orders from the socket to the model; the thread that calls ``run`` is the model's.

    ``plan`` turns a message or a batch into an order, None for the last one. ``decode`` runs in
    several threads at once and must not raise; an order whose work raises is answered as failed.
    There are ``decoders`` followers, at least one. Without decoders nothing is decoded concurrently
    with orders under ``quick`` seconds; with orders under ``tiny`` seconds nothing ever is.
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
        self._kept: deque[None] = deque()  # an entry: the model's thread leads, but is not reading
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._arrival = select.poll()
        self._arrival.register(line.sock, select.POLLIN)
        self._asleep, self._ending = False, False
        self.busy, self.request = False, 0
        self._take_in()  # what arrived together with the first message
        for _ in range(max(decoders, 1)):
            threading.Thread(target=self._follow, name="follower", daemon=True).start()

    @property
    def behind(self) -> bool:
        """Whether orders are queued that will take noticeable time."""
        return bool(self._orders) and not self._tempo.quick

    def run(self) -> None:
        """Process orders until the last message."""
        while self._orders or not self._ending:
            self._step()

    def hand_on(self) -> None:
        """Pass the lead to a follower if the model's thread holds it while running an order."""
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
                self.hand_on()  # the current order was expected to take next to no time
            self._complete(*found)
        elif not self._look():
            self._sleep()

    def _hear(self) -> None:
        """Read the next orders, or wait for a follower to."""
        if not self._claim():
            self._sleep()
            return
        self._read()
        if self._tempo.quick and (self._alone or self._tempo.tiny or len(self._undecoded) < 2):
            self._kept.append(None)
        else:
            self._lead.release()

    def _look(self) -> bool:
        """Read without blocking while followers decode; return whether anything arrived."""
        if not self._claim():
            return False
        found = bool(self._arrival.poll(0)) and self._fetch()
        self._lead.release()
        return found

    def _claim(self) -> bool:
        """Acquire the lead if it was kept, passed back or is free; False if a follower holds it."""
        try:
            self._kept.pop()
        except IndexError:
            return self._lead.acquire(blocking=False)
        return True

    def _sleep(self) -> None:
        """Block until there is work; a thread that adds work while this one sleeps wakes it."""
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
            os._exit(1)  # at once: a worker that no longer reads would be taken for a hung one

    def _take_turn(self) -> bool:
        """Read until there is something to decode, and decode it; False at the end."""
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
        """Wake the model's thread, if it sleeps, for the first order read; pick another job."""
        if not self._asleep:
            return self._pick()
        if self._tempo.quick and len(self._undecoded) < 2 and not self._ending:
            self._kept.append(None)
            self._ring()
            self._lead.acquire()  # blocks until the lead is passed on
            return self._pick()
        self._ring()
        return self._pick() if len(self._undecoded) > 1 else None

    def _ring(self) -> None:
        if self._asleep:
            self._asleep = False
            self._bell.put(None)

    # the thread that holds the lead

    def _read(self) -> None:
        """Block until something arrives, unless the last message was received."""
        while not self._ending:
            self._arrival.poll()
            if self._fetch():
                break

    def _fetch(self) -> bool:
        """Read what is available; return whether it contains work."""
        if not self._line.fetch():
            os._exit(0)  # the server closed the connection; exit even if the model hangs
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

    # any thread that decodes

    def _pick(self) -> tuple[Order, int] | None:
        try:
            return self._undecoded.popleft()
        except IndexError:
            return None

    def _complete(self, order: Order, index: int) -> None:
        order.decoded[index] = self._decode(order.jobs[index])
