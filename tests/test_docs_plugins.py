"""The examples of docs/plugins.md: what a plugin's author copies runs."""

from __future__ import annotations

import importlib.metadata
import inspect
import sys
from typing import NamedTuple

import pytest

from markdown_pages import blocks, read
from mataserver import plugins as plugin_host


class Example(NamedTuple):
    """A plugin of the page, the block of its tests, and one of these."""

    plugin: str
    tests: str
    name: str


def pairs():
    """Return each block of tests of the page with the plugin's block before it."""
    found, plugin = [], ""
    for block in blocks(read("plugins.md"), "python"):
        if "async def test_" in block and "def service(" in plugin:
            found.append((plugin, block))
        elif "@hookimpl" in block:
            plugin = block
    return found


def examples():
    """Yield each test of the page."""
    for plugin, block in pairs():
        tree = compile(block, "plugins.md", "exec")
        names = [name for name in tree.co_names if name.startswith("test_")]
        yield from (pytest.param(Example(plugin, block, name), id=name) for name in names)


@pytest.fixture
def written(monkeypatch, tmp_path):
    """Write an example as a module; return its entry point, whatever name the test calls it by."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source, name):
        module = f"example_{name}"
        (tmp_path / f"{module}.py").write_text(source)
        monkeypatch.delitem(sys.modules, module, raising=False)
        return importlib.metadata.EntryPoint(name, module, plugin_host.GROUP)

    return write


@pytest.mark.parametrize("example", list(examples()))
async def test_examples_do_what_they_say(example, written, mata_client, aiohttp_server, request):
    """Each test of the page passes against the plugin that stands before it."""
    scope = {"__name__": "example_tests"}
    exec(compile(example.tests, "plugins.md", "exec"), scope)

    async def connect(called, **settings):
        return await mata_client(written(example.plugin, called), **settings)

    fixtures = {"mata_client": connect, "aiohttp_server": aiohttp_server}
    wanted = inspect.signature(scope[example.name]).parameters
    given = {each: fixtures.get(each) or request.getfixturevalue(each) for each in wanted}
    await scope[example.name](**given)
