"""The threads of a worker process: which one reads, which decode, and which runs the model.

A single thread calls the model, since its libraries may keep thread-local state. By preference that
thread is also the leader, the one that reads the socket. While work is quick it reads, decodes,
runs the model and answers without any hand-off between threads. Before work that may take long, or
if more work is queued than takes next to no time, it first passes the lead on. A follower then
reads and decodes concurrently, and passes the lead back with an item that arrives alone once work
is quick again.

Work items run in arrival order, whichever thread decoded them.
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
from mataserver.engines.failures import MODEL_ERRORS
from mataserver.engines.worker_errors import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mataserver.engines.host import DecodedJob
    from mataserver.engines.server_connection import ServerConnection
    from mataserver.engines.work import Job

QUICK_SECONDS = 0.003
"""A work item of up to this many seconds may delay reading the next ones."""

TINY_SECONDS = 0.0003
"""Up to this many seconds per item no other thread is woken for the next one: the wake-up would
cost about as much as the item."""

FAILED = Failure(500, "The model failed")

log = logging.getLogger("mataserver.worker")


@dataclass(slots=True, eq=False)
class WorkItem:
    """One unit of work for the model's thread: ``work``, called with its decoded ``jobs``.

    ``request`` is its number, 0 if no answer is expected. An item that is not ``is_brief`` may
    take long, whatever the previous one took.
    """

    request: int
    work: Callable[[list[DecodedJob]], None]
    jobs: Sequence[Job] = ()
    is_brief: bool = True
    decoded: dict[int, DecodedJob] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        """Whether all jobs are decoded."""
        return len(self.decoded) == len(self.jobs)


@dataclass(slots=True, eq=False)
class RecentDurations:
    """Whether recent items took little time.

    is_quick: each took under ``quick_limit`` s; a single slow one is ignored.
    is_tiny:  the last one took under ``tiny_limit`` s.
    """

    quick_limit: float
    tiny_limit: float
    is_quick: bool = False
    is_tiny: bool = False
    was_slow: bool = True

    def record(self, seconds: float) -> None:
        """Record an item's duration; one slow item among quick ones changes nothing."""
        slow = seconds >= self.quick_limit
        self.is_quick = not (slow and self.was_slow)
        self.was_slow = slow
        self.is_tiny = seconds < self.tiny_limit


class WorkerThreads:
    """Moves work items from the socket to the model; the thread that calls ``run`` is the model's.

    ``to_work_item`` turns a message or a batch into a work item, None for the last one. ``decode``
    runs in several threads at once and must not raise; an item whose work raises is answered as
    failed. There are ``decoders`` followers, at least one. Without decoders nothing is decoded
    concurrently with items under ``quick_seconds``, and none is with items under ``tiny_seconds``.
    """

    def __init__(
        self,
        connection: ServerConnection,
        to_work_item: Callable[[wire.ReceivedMessage | list[Job]], WorkItem | None],
        decode: Callable[[Job], DecodedJob],
        decoders: int,
        quick_seconds: float = QUICK_SECONDS,
        tiny_seconds: float = TINY_SECONDS,
    ) -> None:
        self._connection = connection
        self._to_work_item = to_work_item
        self._decode = decode
        self._no_decoders = decoders < 1
        self._recent = RecentDurations(quick_seconds, tiny_seconds)
        self._items: deque[WorkItem] = deque()
        self._undecoded: deque[tuple[WorkItem, int]] = deque()
        self._lead = threading.Lock()
        self._kept_lead: deque[None] = deque()  # an entry: the model's thread leads, not reading
        self._wakeup: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._poller = select.poll()
        self._poller.register(connection.sock, select.POLLIN)
        self._asleep, self._ending = False, False
        self.is_busy, self.request = False, 0
        self._enqueue()  # what arrived together with the first message
        for _ in range(max(decoders, 1)):
            threading.Thread(target=self._run_follower, name="follower", daemon=True).start()

    @property
    def has_backlog(self) -> bool:
        """Whether items are queued that will take noticeable time."""
        return bool(self._items) and not self._recent.is_quick

    def run(self) -> None:
        """Process items until the last message."""
        while self._items or not self._ending:
            self._step()

    def pass_lead(self) -> None:
        """Pass the lead to a follower if the model's thread holds it while running an item."""
        try:
            self._kept_lead.pop()
        except IndexError:
            return
        self._lead.release()

    # the model's thread

    def _step(self) -> None:
        if not self._items:
            self._read_or_wait()
        elif self._items[0].is_ready:
            self._run_item(self._items.popleft())
        elif (found := self._next_undecoded()) is not None:
            if self._undecoded and not (self._recent.is_tiny or self._no_decoders):
                self.pass_lead()  # the current item was expected to take next to no time
            self._decode_job(*found)
        elif not self._read_available():
            self._wait_for_work()

    def _read_or_wait(self) -> None:
        """Read the next items, or wait for a follower to."""
        if not self._acquire_lead():
            self._wait_for_work()
            return
        self._read()
        recent, few = self._recent, len(self._undecoded) < 2
        if recent.is_quick and (few or recent.is_tiny or self._no_decoders):
            self._kept_lead.append(None)
        else:
            self._lead.release()

    def _read_available(self) -> bool:
        """Read without blocking while followers decode; return whether anything arrived."""
        if not self._acquire_lead():
            return False
        found = bool(self._poller.poll(0)) and self._receive()
        self._lead.release()
        return found

    def _acquire_lead(self) -> bool:
        """Acquire the lead if it was kept, passed back or is free; False if a follower holds it."""
        try:
            self._kept_lead.pop()
        except IndexError:
            return self._lead.acquire(blocking=False)
        return True

    def _wait_for_work(self) -> None:
        """Block until there is work; a thread that adds work while this one sleeps wakes it."""
        self._asleep = True
        lead, items = self._kept_lead, self._items
        if not (lead or self._undecoded or (items[0].is_ready if items else self._ending)):
            self._wakeup.get()
        self._asleep = False

    def _run_item(self, item: WorkItem) -> None:
        begun = time.perf_counter()
        self.is_busy, self.request = True, item.request
        try:
            item.work([item.decoded[index] for index in range(len(item.jobs))])
        except MODEL_ERRORS:
            log.exception("work failed")
            if item.request:
                self._connection.reply(wire.RequestFailed(item.request, FAILED))
        self.is_busy = False
        seconds = time.perf_counter() - begun
        for each in item.decoded.values():
            seconds += each.decode_ms / 1e3
        self._recent.record(seconds)

    # followers

    def _run_follower(self) -> None:
        try:
            while self._decode_next():
                continue
        except BaseException:
            log.exception("the server's message cannot be read")
            os._exit(1)  # if it only stopped reading, the server would take it for hung

    def _decode_next(self) -> bool:
        """Read until there is something to decode, and decode it; False at the end."""
        self._lead.acquire()
        found = self._next_undecoded()
        while found is None and not self._ending:
            self._read()
            found = self._wake_and_pick()
        self._lead.release()
        if found is not None:
            self._decode_job(*found)
            if found[0].is_ready:
                self._wake()
        return found is not None

    def _wake_and_pick(self) -> tuple[WorkItem, int] | None:
        """Wake the model's thread, if it sleeps, for the first item read; pick another job."""
        if not self._asleep:
            return self._next_undecoded()
        if self._recent.is_quick and len(self._undecoded) < 2 and not self._ending:
            self._kept_lead.append(None)
            self._wake()
            self._lead.acquire()  # blocks until the lead is passed on
            return self._next_undecoded()
        self._wake()
        return self._next_undecoded() if len(self._undecoded) > 1 else None

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            self._wakeup.put(None)

    # the thread that holds the lead

    def _read(self) -> None:
        """Block until something arrives, unless the last message was received."""
        while not self._ending:
            self._poller.poll()
            if self._receive():
                break

    def _receive(self) -> bool:
        """Read what is available; return whether it contains work."""
        if not self._connection.receive():
            os._exit(0)  # the server closed the connection; exit even if the model hangs
        return self._enqueue()

    def _enqueue(self) -> bool:
        taken = False
        while (received := self._connection.next_message()) is not None:
            item = self._to_work_item(received)
            taken = True
            if item is None:
                self._ending = True
                break
            if not item.is_brief:
                self._recent.is_quick = self._recent.is_tiny = False
            self._items.append(item)
            for index in range(len(item.jobs)):
                self._undecoded.append((item, index))
        return taken

    # any thread that decodes

    def _next_undecoded(self) -> tuple[WorkItem, int] | None:
        try:
            return self._undecoded.popleft()
        except IndexError:
            return None

    def _decode_job(self, item: WorkItem, index: int) -> None:
        item.decoded[index] = self._decode(item.jobs[index])
