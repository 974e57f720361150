"""Streaming sessions as services see them, and the sources of their frames."""

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
    """A streaming session of the server; clients connect to it by its id.

    ``created_at`` is in Unix seconds, ``dropped`` counts frames that newer ones replaced.
    ``owner`` is the id of the owning principal, None if every caller may use it. A ``permanent``
    session has a name and never expires.
    """

    id: str
    permanent: bool
    created_at: float
    dropped: int
    owner: str | None

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def task(self) -> str:
        """The session's task."""


class CameraInfo(Struct):
    """The state of a session's frame source.

    ``source`` omits user, password and path. ``state`` is "idle", "connecting", "connected" or
    "failed", the last with the ``problem`` as a sentence. ``reconnects`` counts recoveries after a
    loss, ``damaged`` the frames left out as damaged, ``viewers`` the current viewers. ``fps``
    limits the frames per second, None for no limit. ``always``: the source is also read without
    viewers.
    """

    source: str
    state: str
    reconnects: int
    viewers: int
    fps: float | None
    always: bool
    problem: str | None
    damaged: int = 0


class CheckSession(Protocol):
    """Checks whether a session could be created, without loading its model."""

    def __call__(self, model: str, task: str | None = None, params: Any = None) -> None:
        """Raise ``InvalidParams`` for permanent errors, else ``NotFound`` or ``Unavailable``."""


class Sessions(Protocol):
    """The streaming sessions of the server, as in ``/v1/sessions``."""

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
        """Load the model and create a session that holds it; it expires when unused.

        A ``source`` provides its frames, and connected clients receive the results: at most
        ``fps`` per second, with ``always`` also while there are no viewers. A session with a
        ``name``, its id, never expires, does not count against ``max_sessions``, and only ``drop``
        ends it. Raises ``NotFound``, ``InvalidParams``, ``Unavailable``, ``OutOfMemory``, and
        ``Conflict`` for a name in use.
        """

    def check(self, model: str, task: str | None = None, params: Any = None) -> None:
        """Raise what ``create`` would raise for a model, task and parameters, without loading."""

    def camera(self, session: StreamSession) -> CameraInfo | None:
        """Return the state of a session's source, None if clients send the frames."""

    async def picture(
        self, session_id: str, principal: Principal | None = None
    ) -> tuple[bytes, int]:
        """Return a source's newest frame as a JPEG with its result drawn in, and its number.

        Waits for a frame if there is no recent one. Raises ``NotFound``, and as the model raised.
        """

    async def serve(self, request: web.Request, session_id: str) -> web.StreamResponse:
        """Answer a request as ``/v1/stream/{session_id}`` does, on a ``public`` route for sockets.

        Connections without valid credentials are closed with 4001.
        """

    async def drop(self, name: str) -> None:
        """End a session that was created with a name; no-op if there is none."""

    def get(self, session_id: str, principal: Principal | None = None) -> StreamSession:
        """Return a session, if it is visible to the principal. Raises ``NotFound``."""

    def list(self, principal: Principal | None = None) -> Sequence[StreamSession]:
        """Return every session, or those visible to a principal, oldest first."""

    async def close(self, session_id: str) -> None:
        """End a session and release its model. Raises ``NotFound`` or ``Conflict``."""

    def attach(
        self, session_id: str, leave: Callable[[int, str], None]
    ) -> AbstractContextManager[StreamSession]:
        """Use a session until the context ends; it does not expire meanwhile.

        ``leave`` is called with a WebSocket close code and a reason when the session is deleted or
        the server shuts down: the context must then end soon. Raises ``NotFound``, and ``Conflict``
        for a session in use.
        """


class SourceFrame(NamedTuple):
    """An encoded picture, and the number of source frames since the previous one, including it.

    The skipped ones count as received and dropped; so many of them were ``damaged``. If all were,
    ``image`` is empty: for a source that would otherwise say nothing for long.
    """

    image: bytes
    passed: int = 1
    damaged: int = 0


@dataclass(frozen=True, slots=True)
class SessionSource:
    """A source of a session's frames that a service provides.

    frames: opens the source; yields encoded pictures, each the newest at that moment, or
            ``SourceFrame``s if it skipped some. It is opened on demand, closed a while after the
            last viewer left, and reopened if it ends or raises; viewers receive the message of a
            ``MataError``.
    shown:  its name for display, without a password.
    """

    frames: Callable[[], AsyncGenerator[bytes | SourceFrame]]
    shown: str
