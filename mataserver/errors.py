"""The exceptions that become HTTP errors: a status and one sentence.

Those that the client library raises too are defined there.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from mataserver_client.errors import (
    BadRequest,
    Conflict,
    InvalidParams,
    MataError,
    NotFound,
    OutOfMemory,
    Shortage,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "BadRequest",
    "Conflict",
    "InvalidParams",
    "MataError",
    "NotFound",
    "OutOfMemory",
    "Shortage",
    "TooLarge",
    "TooSlow",
    "Unavailable",
    "process_start_errors",
    "shortage_error",
]


_NO_THREAD_MESSAGE = "can't start new thread"
"""Message of the ``RuntimeError`` that Python raises, which has no class of its own."""


class TooLarge(MataError):
    """413: the body, or the memory it would need, exceeds the limit."""

    status = 413


class TooSlow(MataError):
    """408: the body did not arrive in time."""

    status = 408


def shortage_error(error: Exception) -> MataError | None:
    """Return the error for clients if a failure was caused by exhausted system resources.

    These are file descriptors, threads, memory and disk space; ``process_start_errors`` covers
    processes. Returns None for any other failure. Callers also log the exception: a bug may have
    used up the resource.
    """
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return OutOfMemory("The server is out of memory")
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD_MESSAGE:
        return _process_limit_error()
    if number in {errno.EMFILE, errno.ENFILE}:
        return Unavailable("The server is out of file descriptors", retry_after=1)
    # A user's quota and a process's file size limit count as a full disk, too.
    if number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return OutOfMemory("The disk is full")
    return None


@contextlib.contextmanager
def process_start_errors() -> Iterator[None]:
    """Convert the failure to start a process in this context to ``Unavailable``.

    Only there: its error number, EAGAIN, has other causes elsewhere, such as a socket that is not
    ready, which are bugs.
    """
    try:
        yield
    except BlockingIOError as error:
        raise _process_limit_error() from error


def _process_limit_error() -> Unavailable:
    return Unavailable("The server can start no more processes and threads", retry_after=1)
