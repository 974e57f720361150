"""docs/client.md against the client."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys

import pytest

import mataserver_client as client
from markdown_pages import blocks, quoted, read, rows
from mataserver_client import AsyncClient, Client

PAGE = read("client.md")
SHOWN = ("../README.md", "../clients/python/README.md", "client.md", "tracking.md")
TYPED = """
[mypy]
strict = True
[mypy-aiohttp.*,numpy.*,PIL.*,supervision.*]
follow_imports = skip
"""
"""A strict check, which leaves out what is large and in no type of the examples."""


def told(function):
    """Return a call as the page writes it: the names of the parameters."""
    parameters = inspect.signature(function).parameters.values()
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    names = [stars.get(p.kind, "") + p.name for p in parameters]
    return f"{function.__name__}({', '.join(name for name in names if name != 'self')})"


def methods(kind):
    """Return the public methods of a client."""
    return {name: each for name, each in inspect.getmembers(kind, callable) if name[0] != "_"}


def test_every_method_is_described():
    """The table holds each method of either client with its parameters, and no other."""
    described = sorted(quoted(row[0]) for row in rows(PAGE, "method"))
    assert described == sorted(map(told, methods(Client).values()))
    assert sorted({*map(told, methods(AsyncClient).values()), "close()"}) == described


def test_every_function_is_described():
    """The table of functions holds those of the package, with their parameters."""
    described = {quoted(row[0]) for row in rows(PAGE, "function")}
    public = (getattr(client, name) for name in client.__all__)
    assert described == {told(each) for each in public if inspect.isfunction(each)}


@pytest.mark.parametrize("name", client.__all__)
def test_every_name_is_described(name):
    """Every public name of the package stands on the page."""
    assert re.search(rf"\b{name}\b", PAGE)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_arguments_of_a_client_are_described(kind):
    """The table tells each argument with its default."""
    described = {quoted(row[0]): quoted(row[1]) for row in rows(PAGE, "argument")}
    arguments = inspect.signature(kind).parameters.values()
    assert described == {each.name: str(each.default) for each in arguments}


@pytest.mark.parametrize("block", blocks(PAGE, "python"))
def test_examples_call_what_there_is(block):
    """What the examples import exists, and they call methods with arguments that these take."""
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, each.name) for each in node.names)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "client":
                method = getattr(Client, node.func.attr)
                given = {each.arg: each.value for each in node.keywords}
                inspect.signature(method).bind(None, *node.args, **given)


def test_examples_are_typed(tmp_path):
    """A reader who checks types finds no fault in what the pages show."""
    for page in SHOWN:
        for number, block in enumerate(blocks(read(page), "python")):
            assert "mataserver_client" in block
            name = re.sub(r"\W", "_", page)
            (tmp_path / f"{name}_{number}.py").write_text(block)
    (tmp_path / "mypy.ini").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--cache-dir=cache", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
