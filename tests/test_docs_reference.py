"""The pages of errors, metrics, plugins and dependencies against the code."""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import re
import tomllib

import pytest

import mataserver
import mataserver_client as client
from conftest import PROTOCOLS
from markdown_pages import (
    AUTHORS,
    ROOT,
    blocks,
    headings,
    quoted,
    read,
    read_authors,
    rows,
    section,
)
from mataserver import errors, plugins, results, testing
from mataserver.contract import backend as contract
from mataserver.contract import hookspecs, service
from mataserver.http import openapi
from mataserver.metrics import LoopCounter, LoopHistogram, Metrics
from mataserver.testing import fixtures

# docs/errors.md


def subclasses(kind):
    """Return a class and everything below it."""
    return [kind, *(below for each in kind.__subclasses__() for below in subclasses(each))]


def test_statuses_are_described():
    """Every status that the server answers has a heading, and every such heading is one."""
    described = {int(name) for name in headings(read("errors.md")) if name.isdecimal()}
    own = {*subclasses(client.ConnectionFailed), client.BadAnswer}
    known = [kind for kind in subclasses(errors.MataError) if kind not in own]
    raised = {
        kind.status
        for kind in known
        if kind.__module__.startswith(("mataserver.", "mataserver_client."))
    }
    assert described == raised | set(openapi._STATUS_TEXTS) | {405, 417}


def test_the_clients_exceptions_are_described():
    """Every exception of the client is named on the page of errors."""
    text = section(read("errors.md"), "In the Python client")
    for name in ("BadRequest", "NotFound", "Conflict", "InvalidParams", "Unavailable"):
        assert f"`{name}` {getattr(errors, name).status}" in text
    for kind in (client.ConnectionFailed, client.BadAnswer):
        assert f"`{kind.__name__}`" in text
        assert f"status {kind.status}" in text


def strings():
    """Return every string of the code of the core and of the protocols."""
    found = set()
    packages = ("mataserver", *(f"plugins/{each}/mataserver_{each}" for each in PROTOCOLS))
    for path in (path for each in packages for path in (ROOT / each).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_sentences_of_errors_exist():
    """What the page quotes is what the code says."""
    known = strings()
    for row in rows(read("errors.md"), "sentence"):
        for sentence in re.findall(r"`([^`]*)`", row[0]):
            for piece in filter(None, (part.strip(" :;'") for part in sentence.split("…"))):
                assert any(piece in text for text in known), sentence


# docs/metrics.md


def test_metrics_are_described():
    """Every metric of the core has a line with its type and labels, and every line is one."""
    described = {
        quoted(row[0]): (row[1], tuple(re.findall(r"`(\w+)`", row[2])))
        for row in rows(read("metrics.md"), "metric")
    }
    actual = {}
    for metric in vars(Metrics()).values():
        if isinstance(metric, LoopCounter):
            actual[f"{metric.name}_total"] = ("counter", metric.labels)
        elif isinstance(metric, LoopHistogram):
            actual[metric.name] = ("histogram", metric.labels)
        elif hasattr(metric, "_labelnames"):
            suffix = "_total" if metric._type == "counter" else ""
            actual[metric._name + suffix] = (metric._type, metric._labelnames)
    assert described == actual


# docs/plugins.md, docs/plugin-*.md


def test_the_index_names_every_page():
    """Each page for authors of plugins has a link in the table of what a plugin can do."""
    text = section(read("plugins.md"), "What a plugin can do")
    linked = set(re.findall(r"\]\((plugin-\w+\.md)", text))
    assert linked == {page.name for page in AUTHORS} - {"plugins.md"}


def test_hooks_are_described():
    """Every hook has a heading and its signature, and a plugin of this repository or an example."""
    text = read("plugins.md")
    for name in plugins.HOOKS:
        assert name in headings(text)
        assert f"`{name}(" in section(text, name)
        assert hasattr(hookspecs, name)


@pytest.mark.parametrize(
    ("kind", "header"),
    [
        (contract.Backend, "field"),
        (service.Context, "`Context`"),
        (contract.LoadContext, "`LoadContext`"),
        (contract.ModelSpec, "`ModelSpec`"),
        (mataserver.Principal, "`Principal`"),
        (mataserver.Policy, "`Policy` of `outbound`"),
    ],
)
def test_fields_are_described(kind, header):
    """Every field of what a plugin gives and gets has a line, in the code's order."""
    described = [quoted(row[0]) for row in rows(read_authors(), header)]
    assert described == [field.name for field in dataclasses.fields(kind)]


def test_model_files_are_described():
    """What ``accepts`` gets is described, with what is derived from it."""
    described = [quoted(row[0]) for row in rows(read_authors(), "`ModelFiles`")]
    fields = [field.name for field in dataclasses.fields(contract.ModelFiles)]
    assert described == [*fields, "model_type"]


def test_defaults_of_a_backend_are_described():
    """The table tells the default of every field that has one worth telling."""
    for field, row in zip(
        dataclasses.fields(contract.Backend), rows(read_authors(), "field"), strict=True
    ):
        default = field.default
        if default is dataclasses.MISSING or default is None:
            assert row[1] == ""
        else:
            told = default.__name__ if isinstance(default, type) else str(default)
            assert quoted(row[1]) == told


def test_tasks_are_described():
    """The pages of plugins name every task and its result."""
    text = read_authors()
    described = {}
    for tasks, result, *_ in rows(section(text, "Results"), "task"):
        described |= dict.fromkeys(re.findall(r"`(\w+)`", tasks), quoted(result))
    assert described == {t: k.__name__ for k in results.RESULT_TYPES for t in k.tasks}
    listed = next(row[2] for row in rows(text, "field") if row[0] == "`task`")
    assert re.findall(r"`(\w+)`", listed) == list(results.TASKS)


@pytest.mark.parametrize("name", mataserver.__all__)
def test_the_plugin_api_is_described(name):
    """Every name of the root package stands on a page of plugins."""
    assert re.search(rf"\b{name}\b", read_authors())


def test_testing_is_described():
    """Every public function of the testing kit stands on their page."""
    text = section(read("plugin-testing.md"), "Testing")
    for name in ("check_plugin", "serving", "installed", "FAKE"):
        assert f"`{name}" in text
        assert hasattr(testing, name)
    described = [quoted(row[0]) for row in rows(text, "fixture")]
    made = vars(fixtures).items()
    kind = type(fixtures.fake_models)
    assert sorted(described) == sorted(
        n for n, each in made if isinstance(each, kind) and n[0] != "_"
    )


def test_the_tutorial_is_the_example():
    """The tutorial shows the files of the example as they are."""
    text = read("plugins.md")
    folder = ROOT / "examples" / "own_plugin"
    assert (folder / "pyproject.toml").read_text() in blocks(text, "toml")
    assert (folder / "mataserver_focus.py").read_text() in blocks(text, "python")


# docs/why.md


def requirements(folder):
    """Return the names of a project's requirements, without this repository's distributions."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    every = [*project.get("dependencies", []), *(one for extra in extras for one in extra)]
    names = (re.match(r"[\w.-]+", requirement)[0] for requirement in every)
    return {name for name in names if not name.startswith("mataserver")}


def test_dependencies_are_justified():
    """Every dependency of the core and of the plugins has a line, and every line is one."""
    described = [quoted(row[0]) for row in rows(read("why.md"), "package")]
    projects = [
        ROOT,
        *(ROOT / "clients").iterdir(),
        *(path.parent for path in ROOT.glob("plugins/*/pyproject.toml")),
    ]
    assert sorted(described) == sorted(set().union(*map(requirements, projects)))


def test_the_version_is_the_packages():
    """The version that the docs show is the one that is installed."""
    assert importlib.metadata.version("mataserver") == mataserver.__version__
    assert f'"version": "{mataserver.__version__}"' in read("api.md")
