"""Revocations that the database could not take: its disk is full, or it does not answer.

Whoever revokes a key because it was stolen must not have to wait for room on a disk. A plugin
refuses it in this server at once, and the revocation is stored as soon as that can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mataserver import MataError, NotFound
from mataserver_database.finishing import finish

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Coroutine, Hashable, Iterator, Mapping

    from mataserver import Unavailable

    Storing = Callable[[], Coroutine[Any, Any, object]]


@dataclass(eq=False)
class Refusal:
    """What stores a revocation of something, who asked for it, and why that failed last."""

    what: str
    storing: Storing
    asked_by: str
    reason: str

    def error(self, cause: Unavailable) -> Unavailable:
        """Return what to answer: that it could not be stored, and is in force all the same."""
        return type(cause)(
            f"{cause.detail}. This server refuses {self.what} all the same, and stores that as soon"
            " as it can"
        )


class Refusals:
    """What is refused until that is stored, by an identity of the plugin's own."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._waiting: dict[Hashable, Refusal] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._waiting)

    def __iter__(self) -> Iterator[Hashable]:
        """What is refused."""
        return iter(self._waiting)

    def __contains__(self, identity: object) -> bool:
        """Whether something is refused."""
        return identity in self._waiting

    def add(self, identity: Hashable, refusal: Refusal) -> None:
        """Refuse something until ``drop``."""
        self._waiting[identity] = refusal
        self._log.warning(
            "%s is refused, as %s asked, and this could not be stored yet: %s",
            refusal.what,
            refusal.asked_by,
            refusal.reason,
        )

    def drop(self, settled: Mapping[Hashable, Refusal]) -> None:
        """Refuse some no more: what was read of the database shows what became of them."""
        for identity, refusal in settled.items():
            if self._waiting.get(identity) is refusal:  # and not one that was asked for meanwhile
                del self._waiting[identity]

    async def store(self) -> dict[Hashable, Refusal]:
        """Store what can be; return what need not wait any more: see ``_store``."""
        waiting = list(self._waiting.items())
        return {each: refusal for each, refusal in waiting if await self._store(refusal)}

    async def _store(self, refusal: Refusal) -> bool:
        """Store a revocation; whether that is over.

        It is stored, or was by somebody else; or it is none: the last administrator must stay, and
        a user whose removal was to be of another state.
        """
        try:
            await finish(refusal.storing())
        except NotFound:
            self._log.info("%s, which was refused, is gone already", refusal.what)
        except MataError as error:
            if error.status >= 500:  # the database's trouble, and no answer
                self._keep(refusal, error.detail)
                return False
            self._log.warning(
                "%s is valid again, though %s asked to refuse it: %s",
                refusal.what,
                refusal.asked_by,
                error.detail,
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody is valid again by it
            self._keep(refusal, repr(error), error)
            return False
        else:
            said = "it is stored that %s is refused, as %s asked"
            self._log.info(said, refusal.what, refusal.asked_by)
        return True

    def _keep(self, refusal: Refusal, reason: str, error: Exception | None = None) -> None:
        """Tell why a revocation cannot be stored yet: once, and not with every try."""
        if reason != refusal.reason:
            refusal.reason = reason
            said = "that %s is refused could not be stored yet: %s"
            self._log.warning(said, refusal.what, reason, exc_info=error)
