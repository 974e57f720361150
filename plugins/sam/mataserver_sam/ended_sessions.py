"""What is still known of video sessions that have ended."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mataserver_sam.video_requests import SessionStatus
    from mataserver_sam.video_session import Session

REMEMBERED = 1_000
"""Sessions that have ended whose status can still be asked for."""


class Ended(NamedTuple):
    """What is known of a session that has ended."""

    owner: str
    status: SessionStatus


class EndedSessions:
    """How the last sessions ended, by their names; the oldest are forgotten."""

    def __init__(self) -> None:
        self._ended: OrderedDict[str, Ended] = OrderedDict()

    def add(self, session: Session) -> list[str]:
        """Remember how a session ended; return the names that are forgotten for it."""
        self._ended[session.id] = Ended(session.owner, session.told())
        over = range(len(self._ended) - REMEMBERED)
        return [self._ended.popitem(last=False)[0] for _ in over]

    def forget(self, name: str) -> bool:
        """Forget a session; return whether it was remembered."""
        return self._ended.pop(name, None) is not None

    def status(self, name: str, owner: str | None) -> SessionStatus | None:
        """Return the last status of a session of ``owner``; None where none is remembered."""
        ended = self._ended.get(name)
        return ended.status if ended is not None and owner in {None, ended.owner} else None
