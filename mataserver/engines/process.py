"""The process engine: a child process per loaded model, forked from a zygote per plugin.

A crash, a hang past its deadline or a memory blow-up is the child's: its requests are answered at
once and nobody else notices. Unloading is the child's end, so that all memory comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import pickle
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from mataserver.engines import arena, ceiling, payload, wire
from mataserver.engines.memory import private_bytes
from mataserver.engines.watchdog import Watchdog
from mataserver.engines.work import Death, Displaced, Outcome, Overgrown, Spoilt, WorkerDied
from mataserver.engines.zygotes import STOP_GRACE, ZygoteHandle
from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from mataserver.engines.arena import Block, Outgoing
    from mataserver.engines.work import Answered, Assignment, Facts, Job, Placement

LAST_WORDS = 0.5
"""Seconds that the answers of a worker that has ended may take to arrive."""

log = logging.getLogger("mataserver.process")


class Reply(NamedTuple):
    """A worker's answer and copies of its parts."""

    message: wire.Message
    parts: list[bytes]


class ProcessWorker(asyncio.Protocol):
    """The server's end of one child process."""

    facts: Facts
    width = 1

    def __init__(self, name: str, patience: float, decode_patience: float = 10.0) -> None:
        self._name = name
        self._decode_patience = decode_patience
        self._memory: Outgoing | None = None
        self._watchdog = Watchdog(patience, self._hung, decode_patience)
        self._ids = itertools.count(1)
        self._pending: dict[int, Callable[[Reply | MataError], None]] = {}
        self._unframer = wire.Unframer(wire.LARGEST_ANSWER)
        self._transport: asyncio.WriteTransport | None = None
        self._ended = asyncio.get_running_loop().create_future()
        self._loaded: asyncio.Future[Facts] = asyncio.get_running_loop().create_future()
        self._stopping = False
        self._callbacks: list[Callable[[Death], None]] = []
        self._end_callbacks: list[Callable[[], None]] = []
        self._kill: Callable[[], None] = lambda: None
        self._reason = "the worker process ended"
        self._parting: MataError | None = None
        self._excused = False
        self._package = ""
        self._ceiling: asyncio.Task[None] | None = None

    def share(self, memory: Outgoing | None) -> None:
        """Use memory that the child will have too."""
        self._memory = memory

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to the child."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Hand each message to whoever waits for it."""
        try:
            for received in self._unframer.feed(data):
                self._received(received)
        except Exception:
            log.exception("worker of %s sent what cannot be read", self._name)
            self.kill("it sent what cannot be read")

    def connection_lost(self, exc: Exception | None) -> None:
        """Answer everything that is pending: the child is gone."""
        del exc  # an error or a plain end are the same to whoever waits
        if self._ended.done():
            return
        self._ended.set_result(None)
        self._kill()  # a socket that ended does not mean that the process did
        self._watchdog.stop()
        if self._ceiling is not None:
            self._ceiling.cancel()
        error = self._parting or WorkerDied(f"The model's worker died: {self._reason}")
        if not self._loaded.done():
            self._loaded.set_exception(error)
            self._loaded.exception()  # whoever stopped waiting must not cause a warning
        pending, self._pending = list(self._pending.values()), {}
        for take in pending:
            take(error)
        if self._memory is not None:
            self._memory.close()
        if not self._stopping:
            self._tell_death(Death(self._reason, blamed=not self._excused))
        for ended in self._end_callbacks:
            ended()

    def _tell_death(self, death: Death) -> None:
        """Tell whoever asked to know; an image's doing is no error of the model's."""
        level = logging.ERROR if death.blamed else logging.WARNING
        log.log(level, "worker of %s died: %s", self._name, death.reason)
        for callback in self._callbacks:
            callback(death)

    # the worker

    @property
    def alive(self) -> bool:
        """Whether the child can still answer."""
        return not self._ended.done() and not self._stopping and not self._excused

    @property
    def pids(self) -> tuple[int, ...]:
        """The child."""
        return (self.facts.pid,)

    def on_death(self, callback: Callable[[Death], None]) -> None:
        """Have ``callback(death)`` called when the child dies by itself."""
        self._callbacks.append(callback)

    def on_suspect(self, callback: Callable[[bool], None]) -> None:
        """Call nobody: what is on this machine is known to live, or to have ended."""

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have ``callback()`` called when the child is gone, for whatever reason."""
        if self._ended.done():
            callback()
        else:
            self._end_callbacks.append(callback)

    def exited(self, how: str) -> None:
        """Learn from the zygote how the child ended."""
        if self._stopping or self._ended.done():
            return
        log.warning("worker of %s ended: %s", self._name, how)
        # Its last answers may still be on their way. A process of its own may hold the socket open.
        asyncio.get_running_loop().call_later(LAST_WORDS, self._gone, how)

    def _gone(self, how: str) -> None:
        if not self._ended.done():
            self.kill(how)

    def abandon(self) -> None:
        """Drop a child whose load failed or was given up."""
        self._stopping = True
        if not self._ended.done():
            self.kill("its load was given up")

    def infer(self, jobs: Sequence[Job], answered: Answered) -> Callable[[], None]:
        """Run one batch; the child is killed when it hangs."""
        if not self.alive:
            raise WorkerDied("The model's worker is gone")
        heads = [wire.JobHead(job.format, job.session) for job in jobs]
        request = next(self._ids)
        message = wire.Infer(request, heads)
        blocks: list[Block] = []
        sizes, places, inline = [], [], []
        for job in jobs:
            for part in (job.image, job.params):
                size, block = len(part), None
                if size >= wire.LARGE and self._memory is not None:
                    block = self._memory.place(part)
                sizes.append(size)
                if block is None:
                    places.append(wire.INLINE)
                    inline.append(part)
                else:
                    places.append(block.begin)
                    blocks.append(block)
        self._write(wire.placed(wire.Header(message, sizes, places), inline))
        take = functools.partial(self._finish, len(jobs), blocks, answered)
        self._expect(request, take, len(jobs))
        return functools.partial(self._drop, request)

    def _drop(self, request: int) -> None:
        """Tell the child that nobody waits for a batch any more."""
        if self.alive and request in self._pending:
            self._send(wire.Drop(request))

    def _finish(
        self, count: int, blocks: list[Block], answered: Answered, reply: Reply | MataError
    ) -> None:
        """Hand a batch's answer to whoever waits for it; its images may be written over."""
        if self._memory is not None:
            for block in blocks:
                self._memory.free(block)
        if isinstance(reply, MataError):
            answered(reply)
            return
        message = reply.message
        if isinstance(message, wire.Answer):
            answered(_outcomes(message, reply.parts, count) or WorkerDied(_NONSENSE))
        elif isinstance(message, wire.Raised):
            answered(message.failure.error())
        else:
            answered(WorkerDied(_NONSENSE))

    def _parts(self, received: wire.Received) -> list[bytes]:
        """Return copies of the parts of a message, and give their place back.

        Done as soon as it is here: to give back a later message's place gives back this one's.
        """
        header = received.header
        if not header.places or self._memory is None:
            return list(map(bytes, wire.parts(received)))
        found, begin = [], 0
        for size, place in zip(header.sizes, header.places, strict=True):
            if place == wire.INLINE:
                found.append(bytes(received.payload[begin : begin + size]))
                begin += size
            else:
                found.append(self._memory.take(place, size))
        self._memory.taken(header.written)
        return found

    async def close_session(self, session: str) -> None:
        """Forget a session's state."""
        if self.alive:
            self._send(wire.CloseSession(session))

    async def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a public method of the model."""
        asked = payload.pack((method, args, kwargs))
        answer = await self._ask(wire.Call(next(self._ids)), asked.parts)
        return self._value(answer, asked)

    async def stream(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        """Iterate over a generator method: each item is computed when it is asked for."""
        asked = payload.pack((method, args, kwargs))
        async with contextlib.aclosing(self._items(wire.Open(next(self._ids)), asked.parts)) as got:
            async for answer in got:
                yield self._value(answer, asked)

    async def generate(self, job: Job) -> AsyncGenerator[str | Outcome]:
        """Iterate over pieces of text, then the outcome: each is computed when it is asked for."""
        opening = wire.Generate(next(self._ids), wire.JobHead(job.format, job.session))
        async with contextlib.aclosing(self._items(opening, [job.image, job.params])) as got:
            async for answer in got:
                yield _piece(answer)

    async def _items(
        self, opening: wire.Open | wire.Generate, parts: Sequence[wire.Part]
    ) -> AsyncGenerator[Reply]:
        self._send(opening, parts)
        try:
            while True:
                answer = await self._ask(wire.Next(opening.id))
                if isinstance(answer.message, wire.Ended):
                    return
                yield answer
        finally:
            if self.alive:
                self._send(wire.Cancel(opening.id))

    def _value(self, answer: Reply, asked: payload.Packed) -> Any:
        """Return what a call has given. Raises a ``MataError`` for what cannot be read."""
        if not isinstance(answer.message, wire.Returned):
            raise WorkerDied(_NONSENSE)
        return payload.unpack(answer.parts, payload.of_package(self._package, asked.classes))

    async def memory(self) -> int:
        """Private memory of the child in bytes."""
        return await asyncio.to_thread(private_bytes, self.facts.pid)

    async def load(self, assignment: Assignment, kill: Callable[[], None]) -> None:
        """Send the assignment and wait until the model is ready."""
        self._kill = kill
        self._package = str(getattr(assignment.load, "__module__", "")).partition(".")[0]
        # The one pickle there is: to the worker, of what the server and its plugins have made.
        self._send(wire.Load(), [pickle.dumps(assignment, protocol=5)])
        self.facts = await asyncio.shield(self._loaded)
        self._watchdog.allow(self.facts.step_timeout)

    def kill(self, reason: str) -> None:
        """Give the child up: it is killed, whoever waits is answered at once."""
        self._reason = reason
        self._kill()
        if self._transport is not None:
            self._transport.abort()
        self.connection_lost(None)

    async def close(self) -> None:
        """Stop the child; one that does not end in time is killed."""
        self._stopping = True
        if self._ended.done():
            return
        self._send(wire.Stop())
        try:
            async with asyncio.timeout(STOP_GRACE):
                await asyncio.shield(self._ended)
        except TimeoutError:
            self.kill("it did not stop")

    def dismiss(self, error: MataError) -> None:
        """Kill the child; whoever waits is told ``error``."""
        self._stopping, self._parting = True, error
        if not self._ended.done():
            self.kill("it was dismissed")

    def _hung(self) -> None:
        limit = f"{round(self._watchdog.limit, 1):g} s"
        self._parting = WorkerDied(f"The model gave no answer within {limit}")
        self.kill(f"no answer within {limit}")

    def _spoil(self, request: int, job: int) -> None:
        """End the child for an image that takes too long; everybody else's go to the next one."""
        self._excused, self._parting = True, Displaced()
        take = self._pending.pop(request, None)
        if take is not None:
            take(Spoilt(self._decode_patience, job))
        self.kill(f"an image took over {self._decode_patience:g} s to decode")

    def limit_memory(self, pid: int, limit: int) -> None:
        """End the child once it holds more than ``limit`` bytes; 0 for no limit."""
        if limit:
            loop = asyncio.get_running_loop()
            self._ceiling = loop.create_task(ceiling.watch(pid, limit, self._overgrown))

    def _overgrown(self) -> None:
        """End the child for what it works on; everybody else's jobs go to the next one."""
        self._excused, self._parting = True, Displaced()
        if not self._loaded.done():
            self._stopping = True
            self._loaded.set_exception(Overgrown())
        request = next(iter(self._pending), None)
        if request is not None:
            self._pending.pop(request)(Overgrown())
        self.kill("its memory grew over max_ram_mb")

    def _send(self, message: wire.Message, parts: Sequence[wire.Part] = ()) -> None:
        self._write(wire.frame(message, parts))

    def _write(self, buffers: list[wire.Part]) -> None:
        if self._transport is None or self._ended.done():
            raise WorkerDied("The model's worker is gone")
        self._transport.writelines(buffers)

    def _expect(
        self, request: int, take: Callable[[Reply | MataError], None], images: int = 1
    ) -> None:
        self._pending[request] = take
        self._watchdog.expect(request, images)

    async def _ask(self, message: wire.Request, parts: Sequence[wire.Part] = ()) -> Reply:
        """Send a request and wait for its answer. Raises what the model raised."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._send(message, parts)
        self._expect(message.id, functools.partial(_settle, future))
        return await future

    def _received(self, received: wire.Received) -> None:
        message = received.header.message
        if isinstance(message, (wire.Answer, wire.Returned, wire.Ended, wire.Raised)):
            self._watchdog.answered(message.id, well=not isinstance(message, wire.Raised))
            parts = self._parts(received)
            take = self._pending.pop(message.id, None)
            if take is not None:
                take(Reply(message, parts))
        elif isinstance(message, wire.Loaded):
            if not self._loaded.done():
                self._loaded.set_result(message.facts)
        elif isinstance(message, wire.LoadRefused):
            self._stopping = True
            if not self._loaded.done():
                self._loaded.set_exception(message.failure.error())
        elif isinstance(message, wire.Late):
            self._spoil(message.id, message.job)
        elif isinstance(message, wire.Decoding):
            self._watchdog.progress()


_NONSENSE = "The model's worker answered nonsense"
_LONGEST = 1e9
"""More milliseconds than anything takes; what is no number is not less."""


def _outcomes(message: wire.Answer, parts: list[bytes], count: int) -> list[Outcome] | None:
    """Return the outcomes of a batch, or None for an answer that is not one per job."""
    heads = message.outcomes
    if len(heads) != count or len(parts) != count:
        return None
    found = []
    for head, body in zip(heads, parts, strict=True):
        if (head.failure is None and not body) or not 0.0 <= head.timing.total < _LONGEST:
            return None
        found.append(Outcome(body, head.timing, head.failure, head.fresh))
    return found


def _piece(reply: Reply) -> str | Outcome:
    """Return a piece of text or, last, the outcome."""
    message = reply.message
    if isinstance(message, wire.Answer):
        outcomes = _outcomes(message, reply.parts, 1)
        if outcomes is not None:
            return outcomes[0]
    elif isinstance(message, wire.Returned):
        text = payload.unpack(reply.parts, payload.of_package("", frozenset()))
        if isinstance(text, str):
            return text
    raise WorkerDied(_NONSENSE)


def _settle(future: asyncio.Future[Reply], reply: Reply | MataError) -> None:
    """Give an answer to whoever still waits for it."""
    if future.done():
        return
    if isinstance(reply, MataError):
        future.set_exception(reply)
    elif isinstance(reply.message, wire.Raised):
        future.set_exception(reply.message.failure.error())
    else:
        future.set_result(reply)


async def _fork(worker: ProcessWorker, zygote: ZygoteHandle) -> int:
    """Have the zygote fork the child of ``worker``; return its pid."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs, _shared() as descriptors:
        worker.share(arena.Outgoing(descriptors[0]) if descriptors else None)
        await loop.create_unix_connection(lambda: worker, sock=ours)
        return await zygote.fork(worker, [theirs.fileno(), *descriptors])


@contextlib.contextmanager
def _shared() -> Iterator[list[int]]:
    """Give the descriptor of new shared memory, or none, until the child has its own."""
    descriptor = arena.create()
    try:
        yield [] if descriptor is None else [descriptor]
    finally:
        if descriptor is not None:
            os.close(descriptor)


class ProcessEngine:
    """Starts a child per model, from a zygote per plugin that lives ``linger`` s past its last.

    ``inherit`` names variables that they get beside those that every child does.
    """

    def __init__(
        self,
        *,
        log_level: str = "info",
        log_format: str = "text",
        linger: float = 30.0,
        inherit: Sequence[str] = (),
    ) -> None:
        self._inherit = inherit
        self._logging = (log_level, log_format)
        self._linger = linger
        self._zygotes: dict[Placement, ZygoteHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self, assignment: Assignment, placement: Placement) -> ProcessWorker:
        """Fork a child and load the model. Raises a ``MataError`` when it cannot."""
        zygote = self._zygote(placement)
        worker = ProcessWorker(
            assignment.spec.name, assignment.patience, assignment.decode_patience
        )
        try:
            pid = await _fork(worker, zygote)
            worker.limit_memory(pid, assignment.max_ram)
            await worker.load(assignment, lambda: zygote.kill(pid))
        except BaseException:
            worker.abandon()
            self._release(placement, zygote)
            raise
        worker.on_end(lambda: self._release(placement, zygote))
        return worker

    async def close(self) -> None:
        """End every zygote, and with it every child."""
        zygotes, self._zygotes = list(self._zygotes.values()), {}
        for zygote in zygotes:
            if zygote.linger is not None:
                zygote.linger.cancel()
        await asyncio.gather(*(zygote.close() for zygote in zygotes), *self._closing)

    def _zygote(self, placement: Placement) -> ZygoteHandle:
        zygote = self._zygotes.get(placement)
        if zygote is None or not zygote.alive:
            zygote = ZygoteHandle(placement, *self._logging, self._inherit)
            zygote.start()
            self._zygotes[placement] = zygote
        if zygote.linger is not None:
            zygote.linger.cancel()
            zygote.linger = None
        return zygote

    def _release(self, placement: Placement, zygote: ZygoteHandle) -> None:
        """Once a zygote has no child left, end it after the linger time: memory comes back."""
        if zygote.linger is not None:
            zygote.linger.cancel()
        loop = asyncio.get_running_loop()
        zygote.linger = loop.call_later(self._linger, self._retire, placement, zygote)

    def _retire(self, placement: Placement, zygote: ZygoteHandle) -> None:
        if not zygote.idle:  # a child that ended a moment ago is not reaped yet
            self._release(placement, zygote)
            return
        if self._zygotes.get(placement) is zygote:
            del self._zygotes[placement]
        task = asyncio.get_running_loop().create_task(zygote.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
