"""The examples of the pages for authors of plugins: what a plugin's author copies runs.

A block whose first line is a comment with a path is that file. The files up to a block of tests
are one example, installed as a distribution; the next plugin behind tests begins another one.
"""

from __future__ import annotations

import inspect
import re
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from cli_terminal import write_distribution
from markdown_pages import AUTHORS

BLOCK = re.compile(r"^```\w+\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"(?:#|//|<!--) ([\w./-]+\.\w+)(?: -->)?\n")
MODULE = re.compile(r"mataserver_(\w+)(?:/__init__)?\.py")


class Example(NamedTuple):
    """The files of an example by path, the block of its tests, and one of these."""

    files: dict[str, str]
    tests: str
    name: str


def pairs():
    """Return each block of tests with the files that stand before it on its page."""
    return [pair for page in AUTHORS for pair in pairs_of(page.read_text())]


def pairs_of(text):
    """Return the pairs of a page."""
    found, files, tested = [], {}, False
    for block in BLOCK.findall(text):
        named = FILE.match(block)
        if named:
            if tested and "@hookimpl" in block:
                files, tested = {}, False
            files |= {named[1]: block}
        elif "async def test_" in block and "mata_client" in block:
            found.append((dict(files), block))
            tested = True
    return found


def examples():
    """Yield each test of the pages."""
    for files, block in pairs():
        tree = compile(block, "example", "exec")
        names = [name for name in tree.co_names if name.startswith("test_")]
        yield from (pytest.param(Example(files, block, name), id=name) for name in names)


def entry_points(files):
    """Return the entry points of an example: those of its plugins and of its pyproject.toml."""
    plugins = {
        named[1]: Path(path).parts[0].removesuffix(".py")
        for path, text in files.items()
        if (named := MODULE.fullmatch(path)) and "@hookimpl" in text
    }
    given = tomllib.loads(files.get("pyproject.toml", ""))
    return {"mataserver": plugins, **given.get("project", {}).get("entry-points", {})}


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Install an example for this process and its children."""
    site = tmp_path / "site"

    def install(files):
        for path, text in files.items():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_text(text)
            if path.endswith(".py"):
                module = path.removesuffix(".py").partition("/")[0]
                monkeypatch.delitem(sys.modules, module, raising=False)
        write_distribution(site, "example", entry_points(files))
        monkeypatch.syspath_prepend(site)
        monkeypatch.setenv("PYTHONPATH", str(site))

    return install


def test_every_file_of_the_pages_is_tested():
    """Each file that a page shows belongs to a plugin with tests."""
    shown = {
        named[1]
        for page in AUTHORS
        for block in BLOCK.findall(page.read_text())
        if (named := FILE.match(block))
    }
    assert shown == {path for files, _ in pairs() for path in files}
    assert all(entry_points(files)["mataserver"] for files, _ in pairs())


@pytest.fixture
def running(mata_client, mata_server, aiohttp_server):
    """The fixtures that need a running loop to be made; a test asks for the others itself."""
    return {
        "mata_client": mata_client,
        "mata_server": mata_server,
        "aiohttp_server": aiohttp_server,
    }


@pytest.mark.undocumented("an example may answer in place of a route")
@pytest.mark.parametrize("example", list(examples()))
async def test_examples_do_what_they_say(example, installed, running, request):
    """Each test of a page passes against the plugin that stands before it."""
    installed(example.files)
    scope = {"__name__": "example_tests"}
    exec(compile(example.tests, "example", "exec"), scope)
    test = scope[example.name]
    wanted = inspect.signature(test).parameters
    await test(**{each: running.get(each) or request.getfixturevalue(each) for each in wanted})
