"""The exceptions that reach a client: a status of the API and one sentence.

Those that the client raises too are the client's.
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
    "TooLarge",
    "TooSlow",
    "Unavailable",
    "scarcity",
    "starting",
]


_NO_THREAD = "can't start new thread"
"""What Python says, by an error that has no kind of its own."""


class TooLarge(MataError):
    """413: the body, or what it would take in memory, is over the limit."""

    status = 413


class TooSlow(MataError):
    """408: the body did not arrive in time."""

    status = 408


def scarcity(error: Exception) -> MataError | None:
    """Return what a client is told of a failure for want of what the machine or a limit gives.

    That is file descriptors, threads, memory, and room on a disk; processes are those of
    ``starting``. None for any other failure. Whoever tells a client logs the exception too: a bug
    may be what used it all.
    """
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return OutOfMemory("The server is out of memory")
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return _no_more()
    if number in {errno.EMFILE, errno.ENFILE}:
        return Unavailable("The server is out of file descriptors", retry_after=1)
    # The quota of a user and the limit of a process are ends of the disk too.
    if number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return OutOfMemory("The disk is full")
    return None


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Start a process in here. Raises ``Unavailable`` where there may be no more of them.

    The number of that error, EAGAIN, has other causes elsewhere, such as a socket that is not
    ready, which are bugs.
    """
    try:
        yield
    except BlockingIOError as error:
        raise _no_more() from error


def _no_more() -> Unavailable:
    return Unavailable("The server can start no more processes and threads", retry_after=1)
