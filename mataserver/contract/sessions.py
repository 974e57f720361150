"""What a service holds of streaming sessions, and where their frames may come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from msgspec import Struct

from mataserver.contract.handles import ModelSession

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from contextlib import AbstractContextManager

    from aiohttp import web

    from mataserver.principals import Principal


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
    """Where a session's frames come from.

    ``source`` is without user, password and path; ``state`` is "idle", "connecting", "connected" or
    "failed", then with the ``problem`` in a sentence. ``reconnects`` counts how often it was lost
    and came again, ``viewers`` who looks now; ``fps`` is the limit of frames a second, None for no
    limit; ``always``: it is read also while nobody looks.
    """

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
