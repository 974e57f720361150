"""Whether a plugin's function can be called as the server calls it, told before it is."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any


def call_problem(function: Any, given: str) -> str:
    """Return why a function cannot be called with the given arguments; empty if it can.

    ``given`` are their names, with commas between them, or empty. What has no signature passes:
    functions in C, what cannot be called at all, and what only a type checker can describe. Of a
    decorated function the decorator's counts: it is what is called.
    """
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError, NameError):
        return ""
    try:
        signature.bind(*(given.split(", ") if given else ()))
    except TypeError:
        return f"is called with ({given}), and takes {signature}"
    return ""


def plain_call_problem(function: Any, given: str) -> str:
    """Return why a function cannot be called with the given arguments, or is ``async``; or "".

    For functions that are not awaited: a coroutine would count as the result, and that of
    ``accepts``, for example, is always true. ``given`` are the names of the arguments, with commas
    between them, or empty. What has no signature passes, such as functions in C.
    """
    with contextlib.suppress(NameError):  # of an object's annotations
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            return "must be a plain def, not async def"
    return call_problem(function, given)
