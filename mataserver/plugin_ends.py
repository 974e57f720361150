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


class PanicError(RuntimeError):
    """Code of a plugin raised what is no ``Exception``, as libraries in Rust do when they panic."""

    def __init__(self, panic: BaseException) -> None:
        super().__init__(f"{type(panic).__name__}: {panic}")
        self.__cause__ = panic  # its traceback says where


class LostWaitError(RuntimeError):
    """Code of a plugin waited for something that was cancelled, though nobody cancelled the code.

    As a cancellation it would end a request without an answer, and a task without a word.
    """

    def __init__(self, cancellation: asyncio.CancelledError) -> None:
        super().__init__("something that it waited for was cancelled")
        self.__cause__ = cancellation  # its traceback says where


def end_error(error: BaseException) -> Exception:
    """Return the failure that this end of a plugin's code is.

    Raises again what is none: a real cancellation, Ctrl-C, the end of a generator.
    """
    if isinstance(error, SystemExit):
        return ExitError(error)
    if _is_of_others(error):
        try:
            raise error
        finally:
            del error  # its traceback has this frame: the cycle would keep what the request held
    if isinstance(error, asyncio.CancelledError):
        return LostWaitError(error)
    return PanicError(error)


def _is_of_others(error: BaseException) -> bool:
    """Whether it is not a plugin's code that ends."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or bool(task.cancelling())
    return isinstance(error, (KeyboardInterrupt, GeneratorExit))


@contextlib.contextmanager
def ends_as_errors() -> Iterator[None]:
    """Convert what would end more than a plugin's code: ``sys.exit``, a cancellation of others.

    Also a panic. A cancellation needs a running event loop.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        raise end_error(error) from error
