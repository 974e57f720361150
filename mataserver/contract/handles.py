"""What a service holds of models, and what it is told of their answers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from msgspec import Struct

from mataserver import results

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from mataserver.contract.envelope import Format
    from mataserver.params import Params
    from mataserver.results import InferResponse, ModelInfo, Result


class Encoded(Struct, frozen=True):
    """A whole answer in ``mata.v1``, as the worker encoded it.

    The others are the milliseconds that it took to decode the image, to wait in the queue, to
    infer and to encode: what ``Server-Timing`` tells.
    """

    body: bytes
    decode: float = 0.0
    queue: float = 0.0
    infer: float = 0.0
    encode: float = 0.0


class ModelSession(Protocol):
    """Frames of one source through a model that may keep state from one to the next.

    ``frames`` counts the frames that were given, ``results`` those that gave a result. ``reset``
    is set where the model's state was lost before the last result, with its worker.
    """

    frames: int
    results: int
    reset: bool

    async def step(self, image: bytes) -> Result:
        """Run the next frame, an encoded image, and return its result.

        Raises what the model raises, and a ``MataError`` of 500 when its worker died.
        """
        ...


class ModelHandle(Protocol):
    """A model that can be asked, wherever its worker lives.

    ``params`` are a mapping of names as a request carries them, or the backend's struct; what they
    leave out comes from the model's entry in the configuration, then from the backend. The server's
    ceilings hold. Every method raises a ``MataError``: ``InvalidParams`` for wrong parameters,
    ``Unavailable`` when the queue is full, and what the model failed with.
    """

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def task(self) -> str:
        """The task that it is asked for."""
        ...

    @property
    def params_type(self) -> type[Params]:
        """The struct of its parameters."""
        ...

    def params(self, given: Any = None, *, text: bool = False) -> Params:
        """Return checked parameters, to use them several times; ``text`` is for forms and queries.

        Raises ``InvalidParams`` naming the parameter.
        """
        ...

    async def predict(self, image: bytes, params: Any = None) -> Result:
        """Decode ``image``, run the model and return its result, arrays as arrays."""
        ...

    async def answer(self, image: bytes, params: Any = None, form: Format = "json") -> Encoded:
        """The same as a whole body, in JSON or MessagePack, that nobody here has looked into."""
        ...

    def generate(self, image: bytes, params: Any = None) -> AsyncGenerator[str | Result]:
        """Yield the pieces of text that the model makes, then its result.

        Closing the iterator stops the work.
        """
        ...

    def generate_answer(
        self, image: bytes, params: Any = None, form: Format = "json"
    ) -> AsyncGenerator[str | Encoded]:
        """Yield the pieces of text, then what ``answer`` returns."""
        ...

    def session(self, params: Any = None) -> AbstractAsyncContextManager[ModelSession]:
        """Hold the model, and what it keeps from frame to frame, until the context ends."""
        ...

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a public method of the model.

        Arguments and result are plain values, arrays and objects of plain classes. Raises
        ``MataError`` for others, and what the method raises.
        """
        ...

    def stream(self, method: str, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Iterate over a public generator method; closing the iterator stops the work."""
        ...


class Models(Protocol):
    """The models that a service may use."""

    def list(self) -> Sequence[ModelInfo]:
        """Return every model that is here, as ``GET /v1/models`` does."""
        ...

    def get(self, model: str, task: str | None = None) -> ModelHandle:
        """Return a handle that does not hold the model: each use loads it if need be.

        ``call`` and ``stream`` need a model that is held. Raises ``NotFound`` or ``Unavailable``.
        """
        ...

    async def load(self, model: str, task: str | None = None) -> None:
        """Load a model and wait for it. Raises as ``acquire`` does."""
        ...

    async def unload(self, model: str) -> bool:
        """Take a model out of memory after what it is busy with; False when it was not loaded."""
        ...

    async def pull(self, model: str, task: str) -> Sequence[str]:
        """Download or install a model and register it; return what a person should know.

        Raises ``BadRequest`` for whatever is wrong with it, ``Conflict`` while it is being pulled,
        ``Unavailable`` where too many wait.
        """
        ...

    async def remove(self, model: str) -> None:
        """Register a model no more and unload it; its files stay.

        Raises ``NotFound``, or ``Conflict`` for one that is held or configured.
        """
        ...

    def acquire(
        self, model: str, task: str | None = None
    ) -> AbstractAsyncContextManager[ModelHandle]:
        """Load ``model`` if need be and hold it until the context ends.

        Raises ``NotFound``, ``OutOfMemory`` or ``Unavailable``.
        """
        ...

    def reserve(self, size: int) -> AbstractAsyncContextManager[None]:
        """Count ``size`` bytes of a process that is no model beside the models' memory.

        Until the context ends. Idle models are evicted for it. Raises ``OutOfMemory`` when it does
        not fit now.
        """
        ...

    def add(self, path: Path, task: str) -> str:
        """Register a local directory or file, as ``mataserver pull`` does; return its name.

        Raises ``BadRequest`` when nothing serves it, ``Conflict`` when its name is in use.
        """
        ...

    def info(self, model: str) -> ModelInfo:
        """Return what ``GET /v1/models`` tells of a model. Raises ``NotFound``."""
        ...

    def pulled_at(self, model: str) -> float:
        """Return when a model was pulled, in Unix seconds. Raises ``NotFound``."""
        ...


@dataclass(frozen=True, slots=True)
class ResultEvent:
    """An answer that has left, as ``on_result`` is told of it.

    kind:       "stream", "camera", or "infer" where ``observe_infer`` says so.
    model, task: what was asked.
    image:      the encoded picture.
    body:       the whole answer, in MessagePack if ``packed``, else in JSON.
    at:         when it left, in Unix seconds.
    session_id, frame_id: of a stream and a camera, None of an inference.
    """

    kind: Literal["stream", "camera", "infer"]
    model: str
    task: str
    image: bytes = field(repr=False)
    body: bytes = field(repr=False)
    packed: bool = False
    at: float = field(default_factory=time.time)
    session_id: str | None = None
    frame_id: int | None = None

    def answer(self) -> InferResponse:
        """Return the answer as a client decodes it."""
        return results.decode(self.body, msgpack=self.packed)
