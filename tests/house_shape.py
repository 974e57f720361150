"""The shape of the house, in figures read off the code: ``make shape`` prints them as a table.

A figure that reached its goal is held there by ``test_house_shape.py``.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import grimp
import networkx as nx

import warm_request

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
CORE = "mataserver"
LARGEST_CLASS, LARGEST_FILE = 200, 300
"""Lines that a class and a file are to have at most."""


class Figure(NamedTuple):
    """One row: what was counted, what the code has, and what it is to have at most."""

    name: str
    value: int
    goal: int

    @property
    def reached(self) -> bool:
        """Whether the code is where it is to be."""
        return self.value <= self.goal


class Definition(NamedTuple):
    """A class at the top of a module: its name and how many lines it takes."""

    name: str
    lines: int


def sources(package: Path) -> list[Path]:
    """Return the package's Python files."""
    return sorted(package.rglob("*.py"))


def length(path: Path) -> int:
    """Return how many lines the file has."""
    return len(path.read_text(encoding="utf-8").splitlines())


def classes(path: Path) -> Iterator[Definition]:
    """Yield the classes at the top of a module."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield Definition(node.name, (node.end_lineno or 0) - node.lineno + 1)


def guests() -> list[str]:
    """Return the packages of the plugins."""
    return sorted(path.name for path in ROOT.glob("plugins/*/mataserver_*"))


@cache
def imports() -> grimp.ImportGraph:
    """Return who imports whom, of the core and all plugins, imports for types included."""
    return grimp.build_graph(CORE, *guests(), cache_dir=None)


def edges() -> Iterator[tuple[str, str]]:
    """Yield every import as importer and imported module."""
    graph = imports()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            yield module, imported


def circles() -> list[set[str]]:
    """Return the groups of modules that import each other in a circle."""
    found = nx.strongly_connected_components(nx.DiGraph(edges()))
    return sorted((group for group in found if len(group) > 1), key=sorted)


def package(module: str) -> str:
    """Return the distribution's package that a module belongs to."""
    return module.partition(".")[0]


def into_guests() -> list[tuple[str, str]]:
    """Return the core's imports of plugins."""
    return [(a, b) for a, b in edges() if package(a) == CORE != package(b)]


def below_the_root() -> list[tuple[str, str]]:
    """Return the plugins' imports of what is not in the core's public root."""
    return [(a, b) for a, b in edges() if package(a) != CORE and b.startswith(f"{CORE}.")]


def layers() -> int:
    """Return how many layers the core's contract has."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [contract] = [
        each
        for each in settings["tool"]["importlinter"]["contracts"]
        if each.get("containers") == [CORE]
    ]
    return len(contract["layers"])


def repeated_names() -> list[str]:
    """Return the public class names that stand at the top of two of the core's modules."""
    names = Counter(each.name for path in sources(ROOT / CORE) for each in classes(path))
    return sorted(name for name, times in names.items() if times > 1 and not name.startswith("_"))


@cache
def everything() -> list[Path]:
    """Return the Python files of the core, the plugins and the client."""
    guests_files = (file for each in ROOT.glob("*/*/mataserver_*") for file in sources(each))
    return [*sources(ROOT / CORE), *guests_files]


def too_large() -> list[str]:
    """Return the classes and files that are larger than they are to be, with their lines."""
    found = []
    for path in everything():
        name = path.relative_to(ROOT)
        if length(path) > LARGEST_FILE:
            found.append(f"{name}: {length(path)}")
        found += [f"{name}: {e.name}: {e.lines}" for e in classes(path) if e.lines > LARGEST_CLASS]
    return found


def brought(template: str) -> set[str]:
    """Return what a template gives names to: its distribution and module, tasks, routes."""
    folder = ROOT / "templates" / template
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {project["name"], *project["entry-points"]["mataserver"].values()}
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and re.fullmatch(
                r"/[\w/{}.-]+|[a-z]\w*\.[a-z]\w*", str(node.value)
            ):
                names.add(node.value)
    return names


def knowing(template: str) -> list[str]:
    """Return the core's files that know of a template: those that its like would have to change."""
    names = brought(template)
    return [
        str(path.relative_to(ROOT))
        for path in (ROOT / CORE).rglob("*")
        if path.suffix in {".py", ".yaml", ".json"}
        and any(name in path.read_text(encoding="utf-8") for name in names)
    ]


@cache
def figures() -> list[Figure]:
    """Count everything."""
    core = sources(ROOT / CORE)
    return [
        Figure("lines of the core", sum(map(length, core)), 14_000),
        Figure("layers of the core", layers(), 14),
        Figure(
            "lines of the largest class",
            max(each.lines for path in everything() for each in classes(path)),
            LARGEST_CLASS,
        ),
        Figure("lines of the largest file", max(map(length, everything())), LARGEST_FILE),
        Figure("circles of imports", len(circles()), 0),
        Figure("imports of the core from plugins", len(into_guests()), 0),
        Figure("imports of plugins from below the public root", len(below_the_root()), 0),
        Figure("class names that stand twice in the core", len(repeated_names()), 0),
        Figure("files of the core that a task of a plugin changes", len(knowing("task")), 0),
        Figure("files of the core that a protocol changes", len(knowing("protocol")), 0),
        Figure("files of the core that a warm request passes", len(warm_request.files()), 20),
    ]


if __name__ == "__main__":
    print("| | now | goal |\n|---|---|---|")  # noqa: T201
    for figure in figures():
        print(f"| {figure.name} | {figure.value:,} | {figure.goal:,} |")  # noqa: T201
    for group in circles():
        print("a circle:", ", ".join(sorted(group)))  # noqa: T201
    print("twice:", ", ".join(repeated_names()))  # noqa: T201
    print("too large:", ", ".join(too_large()))  # noqa: T201
