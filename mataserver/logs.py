"""Logging to stderr, as text or as one JSON object per line, in the server and its workers."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO

from mataserver.printing import printable

if TYPE_CHECKING:
    from types import TracebackType

MAX_LINE = 8_192
"""Maximum number of characters of a printed line that are logged."""
MAX_ENTRY = 32_768
"""Maximum number of characters of a message or a traceback that are logged."""
_JSON_PREFIX = '{"time": '
TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


log = logging.getLogger("mataserver.stderr")


class TextFormatter(logging.Formatter):
    """Lines of text, and a traceback behind them, of a limited length.

    All but the first are indented, and obey no terminal: a message, or an error in a traceback, may
    hold what a client or another server wrote, and must not pass for another entry.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        text = super().format(record)
        return text if text.isprintable() else "\n    ".join(map(printable, text.splitlines()))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Format one record without its traceback."""
        return shorten(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Format a traceback, whose error may hold a whole body or array."""
        return shorten(super().formatException(ei))


class JsonFormatter(TextFormatter):
    """One JSON object per line: time (Unix seconds), level, logger, message, and traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        entry: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": shorten(record.getMessage()),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def shorten(text: str) -> str:
    """Return a text with its middle left out if it is over ``MAX_ENTRY``."""
    omitted = len(text) - MAX_ENTRY
    if omitted <= 0:
        return text
    half = MAX_ENTRY // 2
    return f"{text[:half]} ... ({omitted} characters are left out) ... {text[-half:]}"


class StderrLogger(io.TextIOBase):
    """A replacement of ``sys.stderr`` that logs what is printed, line by line.

    Libraries print directly, or attach handlers to their own loggers.
    """

    def __init__(self, stream: TextIO) -> None:
        """Wrap ``stream``, the destination of the log itself."""
        self.stream = stream
        self._partial = ""
        self._logging = threading.local()

    def write(self, text: str) -> int:
        """Log each complete line, except what logging prints about its own failures."""
        if getattr(self._logging, "now", False):
            return self.stream.write(text)
        *lines, partial = (self._partial + text).split("\n")
        self._partial = partial[-MAX_LINE:]
        self._logging.now = True
        try:
            for line in lines:
                log_line(line)
        finally:
            self._logging.now = False
        return len(text)

    def fileno(self) -> int:
        """Return the stream's descriptor, to be passed to children."""
        return self.stream.fileno()


def log_line(line: str) -> None:
    """Log a printed line; a line of a worker's own log is passed on unchanged.

    In a text log every line is passed on. A line that cannot be written, for example on a full
    disk, is lost, as with logging: the caller must not fail because of it.
    """
    line = line.rstrip()[:MAX_LINE]
    if not line:
        return
    if isinstance(sys.stderr, StderrLogger) and not line.startswith(_JSON_PREFIX):
        log.warning("%s", line)
        return
    with contextlib.suppress(OSError):
        _stream().write(f"{line}\n")


def _stream() -> TextIO:
    """Return the destination of the log: stderr, or the stream wrapped by its replacement."""
    return sys.stderr.stream if isinstance(sys.stderr, StderrLogger) else sys.stderr


def configure(level: str, form: str) -> None:
    """Send the log to stderr. ``level`` is the setting's value, ``form`` "text" or "json"."""
    handler = logging.StreamHandler(_stream())
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(TEXT))
    if form == "json":
        _capture_output()
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level != "debug":
        logging.getLogger("asyncio").setLevel(logging.WARNING)
        # It warns of each socket that offers other protocols, with all that a stranger offered.
        logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)


def _capture_output() -> None:
    """Log warnings, output to stderr, and uncaught exceptions."""
    if not isinstance(sys.stderr, StderrLogger):
        sys.stderr = StderrLogger(sys.stderr)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(
        args.exc_type, args.exc_value, args.exc_traceback
    )


def _log_uncaught(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    log.critical("nobody caught this", exc_info=(kind, error or kind(), trace))


class RateLimitedLog:
    """Rate-limits repeated warnings: the first at once, then one line per interval with a count."""

    def __init__(self, log: logging.Logger, interval: float = 1.0) -> None:
        """Set the ``interval``, in seconds."""
        self._log = log
        self._interval = interval
        self._suppressed: dict[str, tuple[int, str]] = {}

    def warn(self, kind: str, line: str, error: BaseException | None = None) -> None:
        """Log ``line``, or count it if one of its ``kind`` was logged in this interval.

        Only the first line includes the traceback of ``error``. Needs a running event loop. There
        must be few kinds: sentences and models, not client input.
        """
        suppressed = self._suppressed.get(kind)
        if suppressed is not None:
            self._suppressed[kind] = (suppressed[0] + 1, line)
            return
        self._log.warning("%s", line, exc_info=error)
        self._start_interval(kind)

    def _start_interval(self, kind: str) -> None:
        import asyncio  # a caller's loop runs; zygotes and workers, which log too, do without it

        self._suppressed[kind] = (0, "")
        asyncio.get_running_loop().call_later(self._interval, self._flush, kind)

    def _flush(self, kind: str) -> None:
        count, line = self._suppressed.pop(kind)
        if count:
            self._log.warning("%s (%d of these in %g s)", line, count, self._interval)
            self._start_interval(kind)
