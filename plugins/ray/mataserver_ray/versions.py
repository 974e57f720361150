"""Software versions: those of a node and of the server must match."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

from mataserver import MataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mataserver import Assignment

GROUP = "mataserver"
"""The entry point group of plugins."""
OWN = "mataserver_ray"
"""This package: both ends of the connection to a node are in it."""


def software_versions() -> dict[str, str]:
    """Return the versions of Python, mataserver and every distribution with a plugin."""
    own = {"Python": platform.python_version(), "mataserver": metadata.version("mataserver")}
    return {**dict(_plugins().values()), **own}


def check_versions(node: str, theirs: Mapping[str, str], modules: Iterable[str]) -> None:
    """Compare a node's software with ours, for the plugins that ``modules`` belong to.

    Raises ``MataError`` naming the difference and the node.
    """
    plugins, ours = _plugins(), software_versions()
    roots = {OWN, *(module.partition(".")[0] for module in modules)}
    owners = sorted({plugins[root][0] for root in roots if root in plugins})
    for what in ("mataserver", "Python", *owners):
        if what not in theirs:
            raise MataError(f"The node {node} has no {what}, this server {ours[what]}")
        if theirs[what] != ours[what]:
            raise MataError(f"The node {node} has {what} {theirs[what]}, this server {ours[what]}")


def model_modules(assignment: Assignment) -> Iterator[str]:
    """Yield the modules that load a model and its parts."""
    yield assignment.load.__module__
    for part in assignment.parts.values():
        yield from model_modules(part)


def _plugins() -> dict[str, tuple[str, str]]:
    """Map each package with a plugin to the name and version of its distribution."""
    return {
        point.value.partition(":")[0].partition(".")[0]: (point.dist.name, point.dist.version)
        for point in metadata.entry_points(group=GROUP)
        if point.dist is not None
    }
