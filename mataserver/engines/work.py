"""What engines exchange: jobs, outcomes, load reports, the worker protocol."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from mataserver.engines.worker_errors import JobFailed

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from mataserver.config.needs import Needs
    from mataserver.contract.backend import LoadContext, Model, ModelSpec
    from mataserver.contract.envelope import Format
    from mataserver.engines.worker_errors import Death, Failure
    from mataserver.errors import MataError
    from mataserver.params.table import Params
    from mataserver.processes.landlock import Confinement

LOAD_PHASE: ContextVar[Callable[[str], None]] = ContextVar("LOAD_PHASE", default=lambda _: None)
"""Is told what the load that runs in this context waits for."""
LOAD_LEFTOVER: ContextVar[Callable[[Future[None]], None]] = ContextVar(
    "LOAD_LEFTOVER", default=lambda _: None
)
"""Is told of what a load that was given up leaves running: a future that is done at its end."""
Body = bytes | tuple[bytes | memoryview, ...]
"""An encoded answer, or its pieces: prepending a header must not copy pixels."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The model that a worker is started for; sent to the worker's process once.

    context:         what ``load`` is given, with the limits of decoding one image.
    decode_threads:  threads that decode, per worker.
    infer_timeout:   seconds without progress, with requests pending, until the worker is given up.
    step_timeout:    seconds that the backend declares for one step, 0 for none.
    scaled_decode:   whether large JPEGs may be decoded at a reduced size, if the model allows.
    defaults:        the params that the configuration sets, of those in ``params_type``.
    max_ram:         maximum bytes of the worker with its descendants; 0 for no limit.
    confinement:     the rules for its files, None for none.
    needs:           resources that a cluster's node must have for it.
    result:          the result struct of a plugin's own task.
    """

    load: Callable[[ModelSpec, LoadContext], Model]
    params_type: type[Params]
    spec: ModelSpec
    context: LoadContext
    decode_threads: int
    infer_timeout: float = 60.0
    step_timeout: float = 0.0
    scaled_decode: bool = False
    parts: Mapping[str, Assignment] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    max_ram: int = 0
    confinement: Confinement | None = None
    needs: Needs | None = None
    result: type[msgspec.Struct] | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """What an engine needs to start the worker of an assignment.

    ``family`` names the zygote, shared by plugins of a distribution with the same ``preload``, the
    modules that it imports once. ``confined`` restricts the system calls of it and its workers.
    """

    family: str
    preload: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    confined: bool = True


@dataclass(slots=True)
class Job:
    """One image to infer on; its bytes may lie in memory shared with the server.

    ``params`` is the params struct as MessagePack; ``session`` names the video session whose state
    the model keeps, or is None. ``position`` is set by the worker: its request's number, and its
    index there.
    """

    image: bytes | memoryview
    params: bytes | memoryview
    format: Format = "json"
    session: str | None = None
    position: tuple[int, int] = (0, 0)


class Timing(msgspec.Struct, frozen=True):
    """Milliseconds that the worker spent on one job."""

    decode: float = 0.0
    infer: float = 0.0
    encode: float = 0.0

    @property
    def total(self) -> float:
        """The sum of all phases."""
        return self.decode + self.infer + self.encode


@dataclass(slots=True)
class Outcome:
    """One job's answer: a body in the job's format, or a failure and an empty body.

    ``is_new_session``: the model's session state was created for this frame.
    """

    body: Body
    timing: Timing
    failure: Failure | None = None
    is_new_session: bool = False

    def whole(self) -> bytes:
        """Return the body in one piece. Raises the failure, if there is one."""
        if self.failure is not None:
            raise self.failure.error(JobFailed)
        return self.body if isinstance(self.body, bytes) else b"".join(self.body)

    def lent(self) -> bytes | memoryview:
        """Return the body, without a copy if it is one piece; see ``keep``. Raises the failure.

        To be used only during the callback that receives the outcome.
        """
        body = self.body
        if self.failure is None and isinstance(body, tuple) and len(body) == 1:
            return body[0]
        return self.whole()

    def keep(self) -> None:
        """Copy a body whose memory belongs to the worker, which is about to reuse it."""
        if isinstance(self.body, tuple):
            self.body = b"".join(self.body)

    def discard_body(self) -> None:
        """Drop the body: it was sent, and need not be copied."""
        self.body = b""


class LoadReport(msgspec.Struct, frozen=True):
    """What a worker reports once its model is loaded.

    ``decoders`` is the number of threads that decode in addition to the model's. ``step_timeout``
    is the sum of the seconds that the model and its parts declare for one step. ``memory`` is the
    worker's private memory in bytes, for a server that cannot measure it. ``streams`` says whether
    the model writes its answer in pieces.
    """

    stateful: bool
    pid: int
    decoders: int = 0
    step_timeout: float = 0.0
    memory: int = 0
    streams: bool = False


BatchCallback: TypeAlias = "Callable[[list[Outcome] | MataError], None]"
"""Receives the answer to a batch, once, on the event loop: one outcome per job, or an error.

The error is ``WorkerDied`` if the worker died; ``DecodeTimeoutError`` if one image of the batch,
``MemoryLimitError`` if the batch, and ``WorkerReplacedError`` if another batch is why it was
replaced.
"""


class Worker(Protocol):
    """A loaded model: in a child process, in a thread, or in a process on another node.

    Every method raises ``WorkerDied`` once the worker is gone, or given up after a timeout.
    """

    report: LoadReport

    @property
    def is_alive(self) -> bool:
        """Whether it can still answer."""

    def on_suspect(self, callback: Callable[[bool], None]) -> None:
        """Call ``callback(suspect)`` when it may be lost, and when that is resolved.

        A suspect worker should get no new work. Workers on this machine never call it.
        """

    @property
    def width(self) -> int:
        """How many batches it runs concurrently."""

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that hold the model."""

    def infer(self, jobs: Sequence[Job], callback: BatchCallback) -> Callable[[], None]:
        """Run one batch; return a function that cancels it.

        A batch cancelled before its turn is answered with a failure and never reaches the model.
        Uses a callback instead of a coroutine: a task per batch would double the overhead.
        """

    def generate(self, job: Job) -> AsyncGenerator[str | Outcome]:
        """Yield text pieces, then the outcome; closing the iterator stops the work."""

    async def close_session(self, session: str) -> None:
        """Discard a session's state."""

    async def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a public method of the model."""

    def stream(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        """Yield the items of a public generator method."""

    async def memory(self) -> int:
        """Return its private memory in bytes, 0 when unknown."""

    def on_death(self, callback: Callable[[Death], None]) -> None:
        """Call ``callback(death)`` once, if the worker exits unexpectedly."""

    async def close(self) -> None:
        """Unload: call the model's ``close``, then end the worker."""

    def terminate(self, error: MataError) -> None:
        """End immediately, also during ``close``; pending requests fail with ``error``."""


class Engine(Protocol):
    """Starts workers.

    Optional members:

    is_remote:   True if its workers are on other machines: they use none of this one's memory and
                 GPUs, are not confined by the server, and ``Assignment.needs`` says what a machine
                 must have.
    open():      called when the server starts, on the event loop: begins what takes long.
    waiting:     a dict of what is not ready and why, for ``GET /ready``: then 503.
    run_process: runs a child on one of its machines: see ``ClusterProcesses``.
    """

    async def start(self, assignment: Assignment, placement: Placement) -> Worker:
        """Load the model of ``assignment``. Raises a ``MataError`` if that fails."""

    async def close(self) -> None:
        """Stop everything that the engine started."""
