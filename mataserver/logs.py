"""Logging to stderr, as text or as one JSON object a line, in the server and in its workers."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (Unix seconds), level, logger, message, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        entry: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure(level: str, form: str) -> None:
    """Send the log to stderr. ``level`` is a setting's value, ``form`` "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level != "debug":
        logging.getLogger("asyncio").setLevel(logging.WARNING)


class Repeats:
    """Logs warnings that repeat: the first at once, then one line an interval with a count."""

    def __init__(self, log: logging.Logger, interval: float = 1.0) -> None:
        """Begin with nothing held. ``interval`` is in seconds."""
        self._log = log
        self._interval = interval
        self._held: dict[str, tuple[int, str]] = {}

    def note(self, kind: str, line: str) -> None:
        """Log ``line``, or count it where one of its ``kind`` stands there already.

        Only within an event loop. Kinds are few: sentences and models, not what a client sent.
        """
        held = self._held.get(kind)
        if held is not None:
            self._held[kind] = (held[0] + 1, line)
            return
        self._log.warning("%s", line)
        self._hold(kind)

    def _hold(self, kind: str) -> None:
        self._held[kind] = (0, "")
        asyncio.get_running_loop().call_later(self._interval, self._tell, kind)

    def _tell(self, kind: str) -> None:
        count, line = self._held.pop(kind)
        if count:
            self._log.warning("%s (%d of these in %g s)", line, count, self._interval)
            self._hold(kind)
