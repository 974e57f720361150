"""The final status of video sessions that have ended."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mataserver_sam.callers import Caller, Key
    from mataserver_sam.video_requests import SessionStatus
    from mataserver_sam.video_session import Session

MAX_ENDED = 1_000
"""The number of ended sessions whose status is kept."""


class EndedSessions:
    """The final status of the last sessions, by owner and name; the oldest are dropped."""

    def __init__(self) -> None:
        self._ended: OrderedDict[Key, SessionStatus] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._ended

    def add(self, session: Session) -> list[Key]:
        """Keep the final status of a session; return the keys that were dropped for it."""
        self._ended[session.key] = session.status_report()
        over = range(len(self._ended) - MAX_ENDED)
        return [self._ended.popitem(last=False)[0] for _ in over]

    def forget(self, key: Key) -> bool:
        """Drop a session; return whether it was kept."""
        return self._ended.pop(key, None) is not None

    def status(self, name: str, caller: Caller) -> SessionStatus | None:
        """Return the final status of a session, of several the last; None if none is kept."""
        return next(reversed(caller.find(self._ended, name)), None)
