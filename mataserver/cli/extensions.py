"""The commands, built-in and of plugins, known by name until they run."""

from __future__ import annotations

import ast
import importlib.metadata
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mataserver.entry_points import describe_problem, module_of
from mataserver.errors import MataError
from mataserver.suggestion import similar

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUP = "mataserver.commands"
COMMANDS = {
    "serve": "serving:serve",
    "pull": "pulling:pull",
    "list": "registered:list_models",
    "show": "registered:show",
    "rm": "registered:rm",
    "load": "remote:load",
    "stop": "remote:stop",
    "infer": "inferring:infer",
    "ps": "loaded:ps",
    "cluster": "clusters:cluster",
    "plugins": "installed:plugins",
    "check": "checking:check",
    "version": "version:version",
}
"""The built-in commands, with their locations below this package."""

ALIASES = {"ls": "list", "warmup": "load"}

PROJECT_COMMANDS = {
    "export": "onnx",
    "fleet": "fleet",
    "jobs": "jobs",
    "keys": "accounts",
    "passwd": "accounts",
    "reconstruct": "reconstruct",
    "users": "accounts",
}
"""The commands of this project's plugins, with the plugin to install."""

RESERVED = frozenset({*COMMANDS, *ALIASES})
"""Names that plugins' commands cannot have."""


@dataclass(frozen=True, slots=True)
class Extension:
    """One command. ``owner`` names its distributions, ``rejection`` the reason why it cannot run.

    ``point`` is its entry point; of several with the same name, all rejected, any one.
    """

    name: str
    owner: str
    point: importlib.metadata.EntryPoint
    rejection: str | None = None

    @property
    def help(self) -> str:
        """The command's docstring, read from its source; without one, its owner."""
        return _docstring(self.point) or f"Command of {self.owner}."


def found() -> dict[str, Extension]:
    """Return every plugin's command by name, without importing any."""
    points: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        points.setdefault(point.name, []).append(point)
    return {name: _extension(name, points[name]) for name in sorted(points)}


def describe_missing(name: str, known: Sequence[str]) -> str:
    """Return why there is no such command, with the package that brings it, or a similar one."""
    plugin = PROJECT_COMMANDS.get(name)
    if plugin is None:
        return f"no such command: {name}{similar(name, known)}"
    return (
        f"the command {name} needs a package: pip install mataserver-{plugin} "
        f"(./plugins/{plugin} in a checkout)"
    )


def _extension(name: str, points: Sequence[importlib.metadata.EntryPoint]) -> Extension:
    owners = sorted(module_of(point) if point.dist is None else point.dist.name for point in points)
    rejection = None if module_of(points[0]) else describe_problem(points[0])
    if len(points) > 1:
        rejection = "only one may bring it"
    if name in RESERVED:
        rejection = "the name is taken"
    return Extension(name, " and ".join(owners), points[0], rejection)


class ExtensionCommand(click.Command):
    """A plugin's command: imported, or rejected, when it runs."""

    def __init__(self, extension: Extension) -> None:
        self._extension = extension
        super().__init__(extension.name, help=extension.help)

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Import the command and delegate to it. Raises ``MataError`` if that fails."""
        return self.imported().make_context(info_name, args, parent, **extra)

    def imported(self) -> click.Command:
        """Return the plugin's command. Raises ``MataError`` with the reason why there is none."""
        if self._extension.rejection is not None:
            raise self._unusable(f"refused: {self._extension.rejection}")
        try:
            command = self._extension.point.load()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it raises is its own
            raise self._unusable(f"broken: {type(error).__name__}: {error}") from None
        if not isinstance(command, click.Command):
            raise self._unusable(f"broken: it is a {type(command).__name__}, not a click command")
        return command

    def _unusable(self, why: str) -> MataError:
        return MataError(f"the command {self._extension.name} of {self._extension.owner} is {why}")


def _docstring(point: importlib.metadata.EntryPoint) -> str | None:
    """Return a function's docstring without importing its module, or None.

    The help lists the commands of all plugins, and a slow or broken one must not affect it.
    """
    source = _source(module_of(point))
    try:
        tree = ast.parse(source.read_bytes()) if source is not None else None
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    for node in () if tree is None else tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == point.attr:
            return ast.get_docstring(node)
    return None


def _source(module: str) -> Path | None:
    """Return the file of a module; ``importlib.util.find_spec`` would import its package."""
    path, spec = None, None
    names = module.split(".") if module else []
    for depth in range(1, len(names) + 1):
        spec = PathFinder.find_spec(".".join(names[:depth]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None
