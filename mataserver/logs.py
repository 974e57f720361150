"""Logging to stderr, as text or as one JSON object a line, in the server and in its workers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from types import TracebackType

LONGEST = 8_192
"""Characters of a printed line that are logged."""
_OWN = '{"time": '
TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


log = logging.getLogger("mataserver.stderr")


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


class Lines(io.TextIOBase):
    """Stands for ``sys.stderr``: what is printed there becomes the log's, line by line.

    Libraries print, and give their own loggers handlers of their own.
    """

    def __init__(self, stream: TextIO) -> None:
        """``stream`` is where the log itself goes."""
        self.stream = stream
        self._begun = ""
        self._telling = threading.local()

    def write(self, text: str) -> int:
        """Log each line that is whole; nothing that logging itself says of its own failure."""
        if getattr(self._telling, "now", False):
            return self.stream.write(text)
        *lines, begun = (self._begun + text).split("\n")
        self._begun = begun[-LONGEST:]
        self._telling.now = True
        try:
            for line in lines:
                tell_line(line)
        finally:
            self._telling.now = False
        return len(text)

    def fileno(self) -> int:
        """Return the descriptor of the stream: a child may be given it."""
        return self.stream.fileno()


def tell_line(line: str) -> None:
    """Log a line that somebody printed; one of a worker's own log is passed on as it is.

    So is every line in a log that is text. One that the log does not take is lost, as those are
    that logging writes: its disk may be full, and whoever printed is not to fail for that.
    """
    line = line.rstrip()[:LONGEST]
    if not line:
        return
    if isinstance(sys.stderr, Lines) and not line.startswith(_OWN):
        log.warning("%s", line)
        return
    with contextlib.suppress(OSError):
        _stream().write(f"{line}\n")


def _stream() -> TextIO:
    """Return where the log goes: stderr, behind whatever stands for it."""
    return sys.stderr.stream if isinstance(sys.stderr, Lines) else sys.stderr


def configure(level: str, form: str) -> None:
    """Send the log to stderr. ``level`` is a setting's value, ``form`` "text" or "json"."""
    handler = logging.StreamHandler(_stream())
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(TEXT))
    if form == "json":
        _take_prints()
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level != "debug":
        logging.getLogger("asyncio").setLevel(logging.WARNING)


def _take_prints() -> None:
    """Have warnings, what is printed to stderr and what nobody caught become lines of the log."""
    if not isinstance(sys.stderr, Lines):
        sys.stderr = Lines(sys.stderr)
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def _uncaught(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    log.critical("nobody caught this", exc_info=(kind, error or kind(), trace))


class Repeats:
    """Logs warnings that repeat: the first at once, then one line an interval with a count."""

    def __init__(self, log: logging.Logger, interval: float = 1.0) -> None:
        """Begin with nothing held. ``interval`` is in seconds."""
        self._log = log
        self._interval = interval
        self._held: dict[str, tuple[int, str]] = {}

    def note(self, kind: str, line: str, error: BaseException | None = None) -> None:
        """Log ``line``, or count it where one of its ``kind`` stands there already.

        Of an ``error`` the traceback stands beside the first line alone. Only within an event
        loop. Kinds are few: sentences and models, not what a client sent.
        """
        held = self._held.get(kind)
        if held is not None:
            self._held[kind] = (held[0] + 1, line)
            return
        self._log.warning("%s", line, exc_info=error)
        self._hold(kind)

    def _hold(self, kind: str) -> None:
        self._held[kind] = (0, "")
        asyncio.get_running_loop().call_later(self._interval, self._flush, kind)

    def _flush(self, kind: str) -> None:
        count, line = self._held.pop(kind)
        if count:
            self._log.warning("%s (%d of these in %g s)", line, count, self._interval)
            self._hold(kind)
