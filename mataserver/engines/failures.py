"""Translates exceptions of a model to failures, without their text: it may contain paths."""

from __future__ import annotations

import logging
import re

from mataserver.engines.item_validation import InvalidResultError
from mataserver.engines.worker_errors import Failure
from mataserver.errors import MataError, OutOfMemory

# torch's CPU allocator, the CUDA runtime, and CUDA libraries with allocators of their own.
_OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator: (can't|not enough)|CUDA error: out of memory"
    r"|CU(BLAS|DNN)_STATUS_ALLOC_FAILED"
)

MODEL_ERRORS = (BaseException,)
"""What a model's code may raise. ``sys.exit`` in it ends neither its worker nor other requests, nor
does a panic of a library in Rust, whose exception is no ``Exception``. A generator must let
``GeneratorExit`` pass."""

log = logging.getLogger("mataserver.worker")


def is_permanent(error: BaseException) -> bool:
    """Whether retrying a load is pointless: a plugin's verdict, or a missing file or package."""
    if isinstance(error, MataError):
        return error.status != OutOfMemory.status and error.retry_after is None
    return isinstance(error, (FileNotFoundError, ImportError))


def client_error(error: BaseException, sentence: str, model: str) -> MataError:
    """Return the client's error for an exception of a model."""
    return failure_of(error, sentence, model).error()


def failure_of(error: BaseException, sentence: str, model: str) -> Failure:
    """Log ``error`` with the model's name, for a traceback shows only whose code it is.

    Returns the client's view of it, without its text: it may contain paths.
    """
    if isinstance(error, MataError):
        return Failure.of(error)
    if isinstance(error, InvalidResultError):
        return invalid_result_failure(error, model)
    if _is_out_of_memory(error):
        log.error("%s: out of memory: %s", model, error, exc_info=error)
        return Failure(507, "Out of memory")
    log.error("%s: %s", model, sentence, exc_info=error)
    return Failure(500, f"{sentence}: {type(error).__name__}")


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: by exception type, or by the text of a plain RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def invalid_result_failure(error: InvalidResultError, model: str) -> Failure:
    """Log a result that violates the API's contract, and return its failure."""
    log.error("%s returned an invalid result: %s", model, error)
    return Failure(500, f"The model returned an invalid result: {model}: {error}")


def close_quietly(thing: object) -> None:
    """Call ``close`` if there is one; log a failure."""
    close = getattr(thing, "close", None)
    if callable(close):
        try:
            close()
        except MODEL_ERRORS:
            log.exception("close() of a %s failed", type(thing).__name__)
