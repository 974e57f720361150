"""Revocations that the database could not take: its disk is full, or it does not answer.

Whoever revokes a key because it was stolen must not have to wait for room on a disk. It is refused
by this server at once, and the revocation is stored as soon as that can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mataserver import MataError, NotFound
from mataserver_database import finish

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Coroutine, Mapping

    from mataserver import Principal

    Storing = Callable[[], Coroutine[Any, Any, object]]


@dataclass(eq=False)
class Refusal:
    """What stores a revocation, who asked for it, and why that failed last."""

    storing: Storing
    asked_by: str
    reason: str


class Refusals:
    """The ids of keys, tokens and users that are refused, until that is stored."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._waiting: dict[str, Refusal] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._waiting)

    def add(self, identity: str, refusal: Refusal) -> None:
        """Refuse a key, a token or a user, until ``drop``."""
        self._waiting[identity] = refusal
        self._log.warning(
            "%s is refused, as %s asked, and this could not be stored yet: %s",
            identity,
            refusal.asked_by,
            refusal.reason,
        )

    def drop(self, settled: Mapping[str, Refusal]) -> None:
        """Refuse some no more: what was read of the database shows what became of them."""
        for identity, refusal in settled.items():
            if self._waiting.get(identity) is refusal:  # and not one that was asked for meanwhile
                del self._waiting[identity]

    def cover(self, principal: Principal) -> bool:
        """Whether a principal is refused: the key or token that it showed, or the user."""
        return principal.grant in self._waiting or principal.id in self._waiting

    async def store(self) -> dict[str, Refusal]:
        """Store what can be; return what need not wait any more: see ``_store``."""
        waiting = list(self._waiting.items())
        return {each: refusal for each, refusal in waiting if await self._store(each, refusal)}

    async def _store(self, identity: str, refusal: Refusal) -> bool:
        """Store a revocation; whether that is over.

        It is stored, or was by somebody else; or it is none: the last administrator must stay, and
        a user whose removal was to be of another state.
        """
        try:
            await finish(refusal.storing())
        except NotFound:
            self._log.info("%s, which was refused, is gone already", identity)
        except MataError as error:
            if error.status >= 500:  # the database's trouble, and no answer
                self._keep(identity, refusal, error.detail)
                return False
            self._log.warning(
                "%s is valid again, though %s asked to refuse it: %s",
                identity,
                refusal.asked_by,
                error.detail,
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody is valid again by it
            self._keep(identity, refusal, repr(error), error)
            return False
        else:
            said = "it is stored that %s is refused, as %s asked"
            self._log.info(said, identity, refusal.asked_by)
        return True

    def _keep(
        self, identity: str, refusal: Refusal, reason: str, error: Exception | None = None
    ) -> None:
        """Tell why a revocation cannot be stored yet: once, and not with every try."""
        if reason != refusal.reason:
            refusal.reason = reason
            said = "that %s is refused could not be stored yet: %s"
            self._log.warning(said, identity, reason, exc_info=error)
