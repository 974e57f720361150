"""What a service holds of models and sessions, and what it is told of their answers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from msgspec import Struct

from mataserver import results

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from pathlib import Path

    from aiohttp import web

    from mataserver.contract.envelope import Format
    from mataserver.params import Params
    from mataserver.principals import Principal
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


class StreamSession(ModelSession, Protocol):
    """A streaming session of the server, with an id by which clients connect to it.

    ``created_at`` is in Unix seconds, ``dropped`` counts frames that newer ones replaced.
    ``owner`` is the id of the principal whose it is, None for everybody's. A ``permanent`` one has
    a name and never expires.
    """

    id: str
    permanent: bool
    created_at: float
    dropped: int
    owner: str | None

    @property
    def model(self) -> str:
        """The model's name."""
        ...

    @property
    def task(self) -> str:
        """The session's task."""
        ...


class CameraInfo(Struct):
    """Where a session's frames come from; ``source`` without user, password and path."""

    source: str
    state: str
    reconnects: int
    viewers: int
    fps: float | None
    always: bool
    problem: str | None


class CheckSession(Protocol):
    """Whether a session of a model could be made, as far as can be known without loading it."""

    def __call__(self, model: str, task: str | None = None, params: Any = None) -> None:
        """Raise ``InvalidParams`` for what will never work, ``NotFound`` or ``Unavailable``."""
        ...


class Sessions(Protocol):
    """The streaming sessions of the server, as ``/v1/sessions`` has them."""

    async def create(
        self,
        model: str,
        *,
        task: str | None = None,
        params: Any = None,
        owner: Principal | None = None,
        name: str | None = None,
        source: SessionSource | None = None,
        fps: float | None = None,
        always: bool = False,
    ) -> StreamSession:
        """Load the model and make a session that holds it; it expires when nobody uses it.

        With a ``source`` its frames come from there, and clients that connect are shown what is
        found in them: ``fps`` a second at most, ``always`` also while nobody looks. One with a
        ``name``, its id, never expires, does not count against ``max_sessions`` and is ended by
        ``drop`` alone. Raises ``NotFound``, ``InvalidParams``, ``Unavailable``, ``OutOfMemory``,
        and ``Conflict`` for a name that another has.
        """
        ...

    def check(self, model: str, task: str | None = None, params: Any = None) -> None:
        """Raise what ``create`` would of a model, a task and parameters; load nothing."""
        ...

    def camera(self, session: StreamSession) -> CameraInfo | None:
        """Return the state of what a session's frames come from, None where clients send them."""
        ...

    async def picture(
        self, session_id: str, principal: Principal | None = None
    ) -> tuple[bytes, int]:
        """Return the newest frame of a source as a JPEG with what was found in it; its number.

        Waits for one if there is none of late. Raises ``NotFound``, and what the model raised.
        """
        ...

    async def serve(self, request: web.Request, session_id: str) -> web.StreamResponse:
        """Answer a request as ``/v1/stream/{session_id}`` does, on a ``public`` route for sockets.

        Whoever has no credentials that count is closed with 4001.
        """
        ...

    async def drop(self, name: str) -> None:
        """End a session that was made with a name; one that is not there is ended."""
        ...

    def get(self, session_id: str, principal: Principal | None = None) -> StreamSession:
        """Return a session, of those that a principal may know of. Raises ``NotFound``."""
        ...

    def list(self, principal: Principal | None = None) -> Sequence[StreamSession]:
        """Return every session, or those that a principal may know of, oldest first."""
        ...

    async def close(self, session_id: str) -> None:
        """End a session: its model is released. Raises ``NotFound`` or ``Conflict``."""
        ...

    def attach(
        self, session_id: str, leave: Callable[[int, str], None]
    ) -> AbstractContextManager[StreamSession]:
        """Use a session until the context ends: it does not expire meanwhile.

        ``leave`` is called with a WebSocket's close code and a reason when the session is deleted
        or the server shuts down: leave the context soon then. Raises ``NotFound``, and
        ``Conflict`` for one that somebody uses.
        """
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


class SourceFrame(NamedTuple):
    """An encoded picture, and how many frames of its source there were up to it since the last.

    Those before it count as received and dropped.
    """

    image: bytes
    passed: int = 1


@dataclass(frozen=True, slots=True)
class SessionSource:
    """Where the frames of a session come from, in place of an address that the server knows.

    frames: opens it; yields encoded pictures, each the newest when it is asked for, or
            ``SourceFrame``s where it passed some over. It is opened when somebody looks, closed a
            while after nobody does, and opened again where it ends or raises: what a ``MataError``
            says is told to whoever looks.
    shown:  what may be told of it: no password.
    """

    frames: Callable[[], AsyncGenerator[bytes | SourceFrame]]
    shown: str
