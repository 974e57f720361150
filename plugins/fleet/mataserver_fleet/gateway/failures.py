"""The last requests that were answered with an error, for an operator to see as they happen."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct

from mataserver_fleet.gateway.relaying import CLIENT_CLOSED
from mataserver_fleet.pages import date

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = 200
"""Errors that are kept; older ones are forgotten."""
_LONGEST = 500
"""Characters of a reason."""


class FailureView(Struct, kw_only=True):
    """A request that was let in and answered with an error.

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

    def note(self, status: int, subject: tuple[str, str, str], reason: str = "") -> None:
        """Keep an error of a consumer, an application and a model, unless the client left."""
        if status != CLIENT_CLOSED:
            self._kept.append((self._clock(), status, subject, reason[:_LONGEST]))

    def newest(self) -> FailureList:
        """Return those that are kept, newest first."""
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
                for at, status, (consumer, application, model), reason in reversed(self._kept)
            ]
        )
