"""What engines exchange: jobs, outcomes, facts about a loaded model, and the worker protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from mataserver.engines.accidents import JobFailed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from mataserver.config import Alpha
    from mataserver.config.needs import Needs
    from mataserver.contract.backend import LoadContext, Model, ModelSpec
    from mataserver.contract.envelope import Format
    from mataserver.engines.accidents import Death, Failure
    from mataserver.errors import MataError
    from mataserver.params import Params
    from mataserver.processes.landlock import Confinement

Body = bytes | tuple[bytes | memoryview, ...]
"""An encoded answer, or its pieces: pixels are not copied to put a head before them."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The model that a worker is started for; it crosses the process boundary once.

    ``step_timeout`` are the seconds that the backend states for one step, 0 for none.
    ``scaled_decode`` lets it decode large JPEGs no larger than the model needs them; ``alpha`` is
    the ground of transparent pictures. A worker that
    owes an answer and shows no progress for ``patience`` seconds is given up; one that decodes an
    image for ``decode_patience`` seconds is replaced, and the image refused.
    ``defaults`` are the params that the configuration sets for it, of those in ``params_type``.
    ``max_ram`` are the bytes that its worker may hold, with what that starts; 0 for no limit.
    ``confinement`` are the rules for its files, None for none.
    ``needs`` is what a node of a cluster must have for it.
    ``result`` is the struct of its results, for a task that a plugin brings.
    """

    load: Callable[[ModelSpec, LoadContext], Model]
    params_type: type[Params]
    spec: ModelSpec
    context: LoadContext
    max_pixels: int
    decode_threads: int
    patience: float = 60.0
    step_timeout: float = 0.0
    decode_patience: float = 10.0
    scaled_decode: bool = False
    alpha: Alpha = "white"
    parts: Mapping[str, Assignment] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    max_ram: int = 0
    confinement: Confinement | None = None
    needs: Needs | None = None
    result: type[msgspec.Struct] | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """What an engine needs to know to start the worker of an assignment.

    ``family`` names the zygote, one for the plugins of a distribution that preload the same;
    ``preload`` is what it imports once. ``confined``: it and its workers make no system calls that
    models do not need.
    """

    family: str
    preload: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    confined: bool = True


@dataclass(slots=True)
class Job:
    """One image to infer on; its bytes may lie in memory that is shared with the server.

    ``params`` is the params struct as MessagePack; ``session`` names the video session whose state
    the model keeps, or is None. ``place`` is set where it runs: its request there, and which of
    its jobs it is.
    """

    image: bytes | memoryview
    params: bytes | memoryview
    format: Format = "json"
    session: str | None = None
    place: tuple[int, int] = (0, 0)


class Timing(msgspec.Struct, frozen=True):
    """Milliseconds that the worker spent on one job."""

    decode: float = 0.0
    infer: float = 0.0
    encode: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.decode + self.infer + self.encode


@dataclass(slots=True)
class Outcome:
    """One job's answer: its body in the job's format; or a failure, then the body is empty.

    ``fresh`` says that the model's session state was made for this very frame.
    """

    body: Body
    timing: Timing
    failure: Failure | None = None
    fresh: bool = False

    def whole(self) -> bytes:
        """Return the body in one piece. Raises why there is none, if it is a failure."""
        if self.failure is not None:
            raise self.failure.error(JobFailed)
        return self.body if isinstance(self.body, bytes) else b"".join(self.body)


class Facts(msgspec.Struct, frozen=True):
    """What a worker reports once its model is loaded.

    ``decoders`` threads decode beside the one that runs the model. ``step_timeout`` are the seconds
    that the model and its parts state for one step, together. ``memory`` is what it then holds, in
    bytes, to be told where nobody else can look.
    """

    stateful: bool
    pid: int
    decoders: int = 0
    step_timeout: float = 0.0
    memory: int = 0


class Answered(Protocol):
    """Who takes the answer to a batch; called once, on the event loop."""

    def __call__(self, answer: list[Outcome] | MataError, /) -> None:
        """Take one outcome per job, or why there is none.

        That is ``WorkerDied`` if the worker died; ``Spoilt`` if one image of the batch,
        ``Overgrown`` if the batch, and ``Displaced`` if another one is why it was replaced.
        """
        ...


class Worker(Protocol):
    """A loaded model somewhere: a child process, a thread, or a process of another node.

    Every method raises ``WorkerDied`` once the worker is gone, or given up for want of progress.
    """

    facts: Facts

    @property
    def alive(self) -> bool:
        """Whether it can still answer."""
        ...

    def on_suspect(self, callback: Callable[[bool], None]) -> None:
        """Have ``callback(suspect)`` called when it may be lost, and when that is known.

        It is to be given nothing new meanwhile. Nobody calls it of a worker of this machine.
        """
        ...

    @property
    def width(self) -> int:
        """How many batches it runs side by side."""
        ...

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that hold the model."""
        ...

    def infer(self, jobs: Sequence[Job], answered: Answered) -> Callable[[], None]:
        """Run one batch. Returns what to call once nobody waits for its answer any more.

        A batch that is dropped so before its turn is answered with a failure, and costs the model
        nothing. A callback and no coroutine: a task per batch costs as much as the rest of the way.
        """
        ...

    def generate(self, job: Job) -> AsyncGenerator[str | Outcome]:
        """Iterate over pieces of text, then the outcome; closing it stops the work."""
        ...

    async def close_session(self, session: str) -> None:
        """Forget a session's state."""
        ...

    async def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a public method of the model."""
        ...

    def stream(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any]:
        """Iterate over a public generator method."""
        ...

    async def memory(self) -> int:
        """Private memory in bytes, 0 when unknown."""
        ...

    def on_death(self, callback: Callable[[Death], None]) -> None:
        """Have ``callback(death)`` called once if the worker dies by itself."""
        ...

    async def close(self) -> None:
        """Unload: the model's ``close``, then the worker's end."""
        ...

    def dismiss(self, error: MataError) -> None:
        """End at once, also while it is being closed; whoever waits is told ``error``."""
        ...


class Engine(Protocol):
    """Starts workers."""

    async def start(self, assignment: Assignment, placement: Placement) -> Worker:
        """Load the model of ``assignment``. Raises a ``MataError`` when it cannot."""
        ...

    async def close(self) -> None:
        """Stop everything the engine started."""
        ...
