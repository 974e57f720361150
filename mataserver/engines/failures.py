"""Failures of a model, as its worker tells them: never their text, which may hold paths."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import msgspec

from mataserver.engines.accidents import Failure
from mataserver.errors import InvalidParams, MataError, OutOfMemory

if TYPE_CHECKING:
    from mataserver.engines.promises import Unsound

# torch's allocator of the CPU, CUDA's runtime, and its libraries that allocate by themselves.
_SHORTAGE = re.compile(
    r"DefaultCPUAllocator: (can't|not enough)|CUDA error: out of memory"
    r"|CU(BLAS|DNN)_STATUS_ALLOC_FAILED"
)

log = logging.getLogger("mataserver.worker")


def lasts(error: Exception) -> bool:
    """Whether a load will fail again: a plugin says why, a file or a package is missing."""
    if isinstance(error, MataError):
        return error.status != OutOfMemory.status and error.retry_after is None
    return isinstance(error, (FileNotFoundError, ImportError))


def client_error(error: Exception, sentence: str) -> MataError:
    """Return the error that a client gets for what a model raised."""
    return failure_of(error, sentence).error()


def failure_of(error: Exception, sentence: str) -> Failure:
    """What the client may know of ``error``: never its text, which may hold paths."""
    if isinstance(error, MataError):
        return Failure.of(error)
    if _is_shortage(error):
        log.error("out of memory: %s", error)
        return Failure(507, "Out of memory")
    if isinstance(error, msgspec.ValidationError):
        return Failure(InvalidParams.status, f"params: {error}")
    log.error("%s", sentence, exc_info=error)
    return Failure(500, f"{sentence}: {type(error).__name__}")


def _is_shortage(error: Exception) -> bool:
    """Whether a framework found no memory: by type, or by what it says in a plain RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _SHORTAGE.search(str(error)) is not None


def unsound(error: Unsound, model: str) -> Failure:
    """Return the failure of a result that breaks a promise, and log it."""
    log.error("%s returned an invalid result: %s", model, error)
    return Failure(500, f"The model returned an invalid result: {model}: {error}")


def close_quietly(thing: object) -> None:
    """Close what can be closed; a failure is logged."""
    close = getattr(thing, "close", None)
    if callable(close):
        try:
            close()
        except Exception:
            log.exception("close failed")
