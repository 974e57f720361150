"""What would end more than the code of a plugin that raises it, as an error like others.

Apart from ``errors``, since light commands import no asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator


class ExitError(RuntimeError):
    """Code of a plugin called ``sys.exit``, which would end the event loop and so the server."""


class PanicError(RuntimeError):
    """Code of a plugin raised what is no ``Exception``, as libraries in Rust do when they panic."""


class LostWaitError(RuntimeError):
    """Code of a plugin waited for something that was cancelled, though nobody cancelled the code.

    As a cancellation it would end a request without an answer, and a task without a word.
    """


def end_error(error: BaseException) -> Exception:
    """Return the failure that this end of a plugin's code is.

    Raises again what is none: a real cancellation, Ctrl-C, the end of a generator.
    """
    found: Exception
    if isinstance(error, SystemExit):
        found = ExitError(f"sys.exit({error.code!r}) was called")
    elif _is_of_others(error):
        try:
            raise error
        finally:
            del error  # its traceback has this frame: the cycle would keep what the request held
    elif isinstance(error, asyncio.CancelledError):
        found = LostWaitError("something that it waited for was cancelled")
    else:
        found = PanicError(f"{type(error).__name__}: {error}")
    found.__cause__ = error  # its traceback says where
    return found


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


@contextlib.contextmanager
def ends_logged(log: logging.Logger, message: str, *args: object) -> Iterator[None]:
    """Log how a plugin's code failed, whatever it raised, and go on behind the context."""
    try:
        with ends_as_errors():
            yield
    except Exception:
        log.exception(message, *args)
