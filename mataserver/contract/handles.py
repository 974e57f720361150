"""The models' side of the contract with services: handles, and events of their answers."""

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
    from mataserver.params.table import Params
    from mataserver.results import InferResponse, ModelInfo, Result


class Encoded(Struct, frozen=True):
    """A complete answer in ``mata.v1``, as the worker encoded it.

    The other fields are milliseconds of decoding the image, queueing, inference and encoding, as in
    ``Server-Timing``, and what to warn the sender of.
    """

    body: bytes
    decode: float = 0.0
    queue: float = 0.0
    infer: float = 0.0
    encode: float = 0.0
    warning: str = ""


class ModelSession(Protocol):
    """Frames of one source through a model that may keep state between them.

    ``frames`` counts the frames given, ``results`` those that produced a result. ``reset`` is set
    if the model's state was lost, with its worker, before the last result.
    """

    frames: int
    results: int
    reset: bool

    async def step(self, image: bytes) -> Result:
        """Run the next frame, an encoded image, and return its result.

        Raises what the model raises, and a ``MataError`` of 500 if its worker died.
        """


class ModelHandle(Protocol):
    """A model that can be used, wherever its worker runs.

    ``params`` are a mapping of names as in a request, or the backend's struct; missing values come
    from the model's configuration, then from the backend. The server's ceilings apply. Every method
    raises a ``MataError``: ``InvalidParams`` for invalid parameters, ``Unavailable`` if the queue
    is full, and the model's own failures.
    """

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def task(self) -> str:
        """The task that it is used for."""

    @property
    def params_type(self) -> type[Params]:
        """The struct of its parameters."""

    def params(self, given: Any = None, *, text: bool = False) -> Params:
        """Parse parameters once, to use them several times; ``text`` is for forms and queries.

        Raises ``InvalidParams`` naming the parameter.
        """

    async def predict(self, image: bytes, params: Any = None) -> Result:
        """Decode ``image``, run the model and return its result, with arrays."""

    async def answer(self, image: bytes, params: Any = None, form: Format = "json") -> Encoded:
        """Like ``predict``, but return the encoded body, in JSON or MessagePack."""

    def generate(self, image: bytes, params: Any = None) -> AsyncGenerator[str | Result]:
        """Yield the text pieces that the model produces, then its result.

        Closing the iterator stops the work.
        """

    def generate_answer(
        self, image: bytes, params: Any = None, form: Format = "json"
    ) -> AsyncGenerator[str | Encoded]:
        """Yield the text pieces, then what ``answer`` returns."""

    def session(self, params: Any = None) -> AbstractAsyncContextManager[ModelSession]:
        """Hold the model and its state between frames until the context ends."""

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a public method of the model.

        Arguments and result are plain values, arrays and instances of plain data classes. Raises
        ``MataError`` for others, and what the method raises.
        """

    def stream(self, method: str, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Yield the items of a public generator method; closing the iterator stops the work."""


class Models(Protocol):
    """The models available to a service."""

    def list(self) -> Sequence[ModelInfo]:
        """Return every model that is present, as ``GET /v1/models`` does."""

    def get(self, model: str, task: str | None = None) -> ModelHandle:
        """Return a handle that does not hold the model: each use loads it on demand.

        ``call`` and ``stream`` need a held model. Raises ``NotFound`` or ``Unavailable``.
        """

    async def load(self, model: str, task: str | None = None) -> None:
        """Load a model and wait for it. Raises as ``acquire`` does."""

    async def unload(self, model: str) -> bool:
        """Unload a model after its pending requests; return False if it was not loaded."""

    async def pull(self, model: str, task: str) -> Sequence[str]:
        """Download or install a model and register it; return warnings for the operator.

        Raises ``BadRequest`` if it is unusable, ``Conflict`` while it is being pulled,
        ``Unavailable`` if too many pulls are queued.
        """

    async def remove(self, model: str) -> None:
        """Unregister a model and unload it; its files stay.

        Raises ``NotFound``, or ``Conflict`` for one that is held or configured.
        """

    def acquire(
        self, model: str, task: str | None = None
    ) -> AbstractAsyncContextManager[ModelHandle]:
        """Load ``model`` if necessary, and hold it until the context ends.

        Raises ``NotFound``, ``OutOfMemory`` or ``Unavailable``.
        """

    def reserve(self, size: int) -> AbstractAsyncContextManager[None]:
        """Reserve memory, in bytes, for a process other than a model until the context ends.

        Evicts idle models if necessary. Raises ``OutOfMemory`` if it does not fit now.
        """

    def add(self, path: Path, task: str) -> str:
        """Register a local directory or file, as ``mataserver pull`` does; return its name.

        Raises ``BadRequest`` if no backend serves it, ``Conflict`` if its name is in use.
        """

    def info(self, model: str) -> ModelInfo:
        """Return a model's entry of ``GET /v1/models``. Raises ``NotFound``."""

    def pulled_at(self, model: str) -> float:
        """Return when a model was pulled, in Unix seconds. Raises ``NotFound``."""


@dataclass(frozen=True, slots=True)
class ResultEvent:
    """An answer that was sent, as passed to ``on_result``.

    kind:       "stream", "camera", or "infer" if ``observe_infer`` is set.
    model, task: the model and task of the request.
    image:      the encoded picture.
    body:       the complete answer, in MessagePack if ``packed``, else in JSON.
    at:         when it was sent, in Unix seconds.
    session_id, frame_id: of a stream or a camera, None for an inference.
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
        """Decode the answer as a client does."""
        return results.decode(self.body, msgpack=self.packed)
