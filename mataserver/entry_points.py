"""The module that an entry point names, if it names one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def module_of(point: EntryPoint) -> str:
    """Return the module that an entry point names; empty if its value is no name of a module.

    pip installs ``focus = "mataserver-focus"`` without complaint, and ``point.module`` then raises.
    """
    match = point.pattern.match(point.value)
    return "" if match is None else str(match["module"])


def describe_problem(point: EntryPoint) -> str:
    """Return what is wrong with an entry point that names no module."""
    hint = ": a module's name has _ in place of -" if "-" in point.value else ""
    return f"its entry point {point.value!r} names no module{hint}"
