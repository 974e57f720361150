"""What would end more than the code of a plugin that raises it, as an error like others.

Apart from ``errors``, since light commands import no asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


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
