"""The last requests that were answered with an error, for an operator to see as they happen."""

from __future__ import annotations

import time
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING

from msgspec import Struct

from mataserver_fleet.gateway.relaying import CLIENT_CLOSED
from mataserver_fleet.pages import date

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = 200
"""Errors that are kept; older ones are forgotten."""
REFUSALS = 50
"""Refusals that are kept, each once: a consumer that ignores its rate pushes nothing else out."""
_LONGEST = 500
"""Characters of a reason."""


class FailureView(Struct, kw_only=True):
    """A request of a known consumer that was answered with an error.

    ``application`` and ``model`` are empty where the request was refused before they were known.

    ``reason`` is the sentence that the gateway gave the consumer, empty where a server answered:
    what it says is its consumer's alone.
    """

    at: str | None
    status: int
    consumer: str
    application: str
    model: str
    reason: str


class FailureList(Struct, kw_only=True):
    """The last of them, newest first."""

    errors: list[FailureView]


class Failures:
    """Keeps the last ``KEPT``. ``clock`` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._kept: deque[tuple[float, int, tuple[str, str, str], str]] = deque(maxlen=KEPT)
        self._refused: dict[tuple[int, tuple[str, str, str], str], float] = {}

    def note(self, status: int, subject: tuple[str, str, str], reason: str = "") -> None:
        """Keep an error of a consumer, an application and a model, unless the client left."""
        if status != CLIENT_CLOSED:
            self._kept.append((self._clock(), status, subject, reason[:_LONGEST]))

    def note_refusal(self, status: int, subject: tuple[str, str, str], reason: str) -> None:
        """Keep what was refused before it was counted; the same again takes the place of it."""
        key = status, subject, reason[:_LONGEST]
        self._refused.pop(key, None)
        self._refused[key] = self._clock()
        if len(self._refused) > REFUSALS:
            del self._refused[next(iter(self._refused))]

    def newest(self) -> FailureList:
        """Return those that are kept, newest first."""
        refused = [(at, *each) for each, at in self._refused.items()]
        every = sorted([*self._kept, *refused], key=itemgetter(0))[-KEPT:]
        return FailureList(
            errors=[
                FailureView(
                    at=date(at),
                    status=status,
                    consumer=consumer,
                    application=application,
                    model=model,
                    reason=reason,
                )
                for at, status, (consumer, application, model), reason in reversed(every)
            ]
        )
