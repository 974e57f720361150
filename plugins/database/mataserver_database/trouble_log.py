"""Tells of a database's troubles, and of one that lasts only now and then.

Everything that follows changes asks again every second or sooner: an hour without a database would
be twenty thousand lines of the log, and what else is said there would be lost among them.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

REPEAT_SECONDS = 60.0
"""How long the same words are not logged again."""


class TroubleLog:
    """Logs each trouble once a minute at most. ``clock`` gives seconds that are never set."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._told: dict[str, float] = {}

    def tell(self, trouble: str) -> None:
        """Log a warning, unless its words have been logged just now."""
        now = self._clock()
        self._told = {each: at for each, at in self._told.items() if now - at < REPEAT_SECONDS}
        if trouble not in self._told:
            self._told[trouble] = now
            self._log.warning("%s", trouble)


TROUBLES = TroubleLog(logging.getLogger("mataserver.plugin.database"))
"""That of this process."""
