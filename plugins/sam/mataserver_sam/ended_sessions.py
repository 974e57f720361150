"""The final status of video sessions that have ended."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mataserver_sam.video_requests import SessionStatus
    from mataserver_sam.video_session import Session

MAX_ENDED = 1_000
"""The number of ended sessions whose status is kept."""


class EndedSession(NamedTuple):
    """The owner and the final status of a session that has ended."""

    owner: str
    status: SessionStatus


class EndedSessions:
    """The final status of the last sessions, by name; the oldest are dropped."""

    def __init__(self) -> None:
        self._ended: OrderedDict[str, EndedSession] = OrderedDict()

    def add(self, session: Session) -> list[str]:
        """Keep the final status of a session; return the names that were dropped for it."""
        self._ended[session.id] = EndedSession(session.owner, session.status_report())
        over = range(len(self._ended) - MAX_ENDED)
        return [self._ended.popitem(last=False)[0] for _ in over]

    def forget(self, name: str) -> bool:
        """Drop a session; return whether it was kept."""
        return self._ended.pop(name, None) is not None

    def status(self, name: str, owner: str | None) -> SessionStatus | None:
        """Return the final status of a session of ``owner``; None if it is not kept."""
        ended = self._ended.get(name)
        return ended.status if ended is not None and owner in {None, ended.owner} else None
