"""Which releases run here: those of a node and of the server must be the same."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

from mataserver.errors import MataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mataserver.engines.work import Assignment

GROUP = "mataserver"
"""The entry points of plugins."""


def releases() -> dict[str, str]:
    """Return the versions of Python, of mataserver and of every distribution with a plugin."""
    own = {"Python": platform.python_version(), "mataserver": metadata.version("mataserver")}
    return {**dict(_plugins().values()), **own}


def compare(node: str, theirs: Mapping[str, str], assignment: Assignment) -> None:
    """Compare what a model needs on a node with what is here. Raises ``MataError`` naming it."""
    ours = releases()
    for what in ("mataserver", "Python", *_owners(assignment)):
        if what not in theirs:
            raise MataError(f"The node {node} has no {what}, this server {ours[what]}")
        if theirs[what] != ours[what]:
            raise MataError(f"The node {node} has {what} {theirs[what]}, this server {ours[what]}")


def _owners(assignment: Assignment) -> list[str]:
    """Return the distributions whose code loads a model and its parts."""
    plugins = _plugins()
    roots = {load.__module__.partition(".")[0] for load in _loads(assignment)}
    return sorted({plugins[root][0] for root in roots if root in plugins})


def _loads(assignment: Assignment) -> Iterator[object]:
    yield assignment.load
    for part in assignment.parts.values():
        yield from _loads(part)


def _plugins() -> dict[str, tuple[str, str]]:
    """Return name and version of the distribution of each package with a plugin."""
    return {
        point.module.partition(".")[0]: (point.dist.name, point.dist.version)
        for point in metadata.entry_points(group=GROUP)
        if point.dist is not None
    }
