"""Whether a plugin's function can be called as the server calls it, told before it is."""

from __future__ import annotations

import inspect
from typing import Any


def call_problem(function: Any, given: str) -> str:
    """Return why a function cannot be called with the given arguments; empty if it can.

    ``given`` are their names, with commas between them, or empty. What has no signature passes:
    functions in C, and what cannot be called at all.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*(given.split(", ") if given else ()))
    except TypeError:
        return f"is called with ({given}), and takes {signature}"
    return ""


def plain_call_problem(function: Any, given: str) -> str:
    """Return the same for a function that is not awaited: its coroutine would count as the result.

    That of ``accepts``, for example, is always true.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "must be a plain def, not async def"
    return call_problem(function, given)
