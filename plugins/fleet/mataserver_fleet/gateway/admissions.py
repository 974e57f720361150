"""Lets consumers' requests in; an operator sees among the last errors whom it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver_fleet.gateway.grants import Unlinked
from mataserver_fleet.gateway.limits import TooManyRequests
from mataserver_fleet.gateway.usage import Subject

if TYPE_CHECKING:
    from mataserver import MataError
    from mataserver_fleet.gateway.failures import Failures
    from mataserver_fleet.gateway.limits import Admission, RateLimiter
    from mataserver_fleet.gateway.snapshot import Consumer, Place


class Admissions:
    """Grants requests within the limits of their consumers."""

    def __init__(self, limits: RateLimiter, failures: Failures) -> None:
        self._limits = limits
        self._failures = failures

    def admit(self, consumer: Consumer, place: Place) -> Admission:
        """Count a request. Raises ``TooManyRequests``."""
        try:
            return self._limits.admit(consumer)
        except TooManyRequests as error:
            who = Subject(consumer.name, place.application.name, place.route.model)
            self._failures.note_refusal(error.status, who, error.detail)
            raise

    def note_unlinked(self, error: MataError) -> None:
        """Note a refusal, if it is for a link that a known consumer lacks."""
        if isinstance(error, Unlinked):
            who = Subject(error.consumer, error.application, "")
            self._failures.note_refusal(error.status, who, error.detail)
