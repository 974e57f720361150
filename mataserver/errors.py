"""The exceptions that reach a client: a status of the API and one sentence.

Those that the client raises too are the client's.
"""

from __future__ import annotations

import errno

from mataserver_client.errors import (
    BadRequest,
    Conflict,
    InvalidParams,
    MataError,
    NotFound,
    OutOfMemory,
    Unavailable,
)

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

    That is file descriptors, processes and threads, memory, and room on a disk. None for any other
    failure.
    """
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return OutOfMemory("The server is out of memory")
    no_thread = isinstance(error, RuntimeError) and str(error) == _NO_THREAD
    if no_thread or number == errno.EAGAIN:
        return Unavailable("The server can start no more processes and threads", retry_after=1)
    if number in {errno.EMFILE, errno.ENFILE}:
        return Unavailable("The server is out of file descriptors", retry_after=1)
    # The quota of a user and the limit of a process are ends of the disk too.
    if number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return OutOfMemory("The disk is full")
    return None
