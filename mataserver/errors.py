"""The exceptions that become HTTP errors: a status and one sentence.

Those that the client library raises too are defined there.
"""

from __future__ import annotations

import asyncio
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
    "ExitError",
    "InvalidParams",
    "LostWaitError",
    "MataError",
    "NotFound",
    "OutOfMemory",
    "TooLarge",
    "TooSlow",
    "Unavailable",
    "end_error",
    "ends_as_errors",
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


class ExitError(RuntimeError):
    """Code of a plugin called ``sys.exit``, which would end the event loop and so the server."""

    def __init__(self, exit_call: SystemExit) -> None:
        super().__init__(f"sys.exit({exit_call.code!r}) was called")
        self.__cause__ = exit_call  # its traceback says where


class LostWaitError(RuntimeError):
    """Code of a plugin waited for something that was cancelled, though nobody cancelled the code.

    As a cancellation it would end a request without an answer, and a task without a word.
    """

    def __init__(self, cancellation: asyncio.CancelledError) -> None:
        super().__init__("something that it waited for was cancelled")
        self.__cause__ = cancellation  # its traceback says where


def end_error(error: SystemExit | asyncio.CancelledError) -> Exception:
    """Return the failure that this end of a plugin's code is. Raises a real cancellation again."""
    if isinstance(error, SystemExit):
        return ExitError(error)
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise error
    return LostWaitError(error)


@contextlib.contextmanager
def ends_as_errors() -> Iterator[None]:
    """Convert what would end more than a plugin's code: ``sys.exit``, a cancellation of others.

    Needs a running event loop.
    """
    try:
        yield
    except (SystemExit, asyncio.CancelledError) as error:
        raise end_error(error) from error


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
