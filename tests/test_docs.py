"""The documentation against the code: what is there is described, what is described is there."""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import msgspec
import pytest
import yaml

import mataserver
from mataserver import (
    app,
    client,
    config,
    contract,
    errors,
    hookspecs,
    openapi,
    params,
    plugins,
    results,
    testing,
)
from mataserver.metrics import Metrics
from mataserver.testing import installed

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("plugins/*/README.md")]
    if path.is_file()
)
PLUGINS = sorted(
    {path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")}
    & importlib.metadata.entry_points(group=plugins.GROUP).names
)


def read(name):
    """Return a page of docs/."""
    return (DOCS / name).read_text()


def rows(text, first):
    """Return the rows of every table whose first column is headed ``first``, as lists of cells."""
    found, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == first:
            inside = True
        elif inside and set(line) - set("|-: "):
            found.append(cells)
    return found


def quoted(cell):
    """Return the text between the first pair of backticks of a cell."""
    return re.search(r"`([^`]*)`", cell)[1]


def headings(text):
    """Return the headings of a page outside its code blocks, without their marks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^#+ (.*)$", prose, re.MULTILINE)


def section(text, heading):
    """Return what stands under a heading, up to the next one of its level or above."""
    marks = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    body = text[marks.end() :]
    end = re.search(rf"^#{{1,{len(marks[1])}}} ", body, re.MULTILINE)
    return body[: end.start()] if end else body


def blocks(text, language):
    """Return the code blocks of a language."""
    pattern = rf"^```{language}\n(.*?)^```"
    return re.findall(pattern, text, re.DOTALL | re.MULTILINE)


# links and code


def anchors(path):
    """Return the anchors of a page's headings, as a forge makes them."""
    plain = (re.sub(r"[^\w\- ]", "", heading).lower() for heading in headings(path.read_text()))
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Every relative link names a file of the repository, and a heading of it if it names one."""
    for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_compile(page):
    """Every Python block of a page is Python."""
    for block in blocks(page.read_text(), "python"):
        compile(block, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_json_blocks_are_json(page):
    """Every JSON block of a page can be decoded, unless it says with "…" that it is cut."""
    for block in blocks(page.read_text(), "json"):
        assert "…" in block or json.loads(block)


# docs/config.md

REQUIRED = "required"


def default_of(field):
    """Return a setting's default, or ``REQUIRED``."""
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return REQUIRED if field.default is msgspec.NODEFAULT else field.default


@pytest.mark.parametrize(
    ("kind", "header", "column"),
    [(config.Settings, "setting", 3), (config.ModelSettings, "field", 2)],
)
def test_settings_are_described(kind, header, column):
    """Every setting has a line with its default, and every line is a setting."""
    described = {quoted(row[0]): yaml.safe_load(quoted(row[column])) for row in table(header)}
    actual = {field.name: default_of(field) for field in msgspec.structs.fields(kind)}
    assert described == actual


def table(header):
    """Return the rows of the tables of docs/config.md that begin with ``header``."""
    return rows(read("config.md"), header)


def test_environment_variables_are_described():
    """Every setting tells its variable, or that it has none."""
    for name, variable, *_ in table("setting"):
        setting = quoted(name)
        if setting in {"models", "plugins"}:
            assert variable == "YAML only"
        else:
            assert quoted(variable) == config.PREFIX + setting.upper()


def yaml_blocks():
    """Return the YAML of docs/config.md, of the README, of the plugins' pages, and config.yaml."""
    pages = [DOCS / "config.md", ROOT / "README.md", *ROOT.glob("plugins/*/README.md")]
    found = [(page, block) for page in pages for block in blocks(page.read_text(), "yaml")]
    return [*found, (ROOT / "config.yaml", (ROOT / "config.yaml").read_text())]


@pytest.mark.parametrize(
    ("page", "block"),
    yaml_blocks(),
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_configurations_are_valid(page, block, tmp_path):
    """Every YAML block and config.yaml are accepted by the server and by the plugins."""
    file = tmp_path / "mataserver.yaml"
    file.write_text(block)
    settings = config.load(file, environ={}, directory=tmp_path)
    plugins.discover(settings, installed(*PLUGINS))


@pytest.mark.parametrize("name", PLUGINS)
def test_plugins_describe_their_settings(name):
    """A plugin with settings has a YAML block on its page, which shows every default."""
    (plugin,) = plugins.discover(config.Settings(), installed(name)).found
    text = (ROOT / "plugins" / name / "README.md").read_text()
    shown = [yaml.safe_load(block).get("plugins", {}) for block in blocks(text, "yaml")]
    own = [each[name] for each in shown if name in each]
    if plugin.settings is None:
        assert not own
    else:
        assert msgspec.to_builtins(plugin.settings) in own


# docs/api.md


@pytest.fixture(scope="module")
def application(tmp_path_factory):
    """The server's application."""
    folder = tmp_path_factory.mktemp("data")
    settings = config.load(environ={}, directory=folder, data_dir=str(folder))
    return app.build(settings, plugins.discover(settings, [testing.FAKE]))


@pytest.fixture(scope="module")
def document(application):
    """The OpenAPI document."""
    return json.loads(application[app.STATE].document)


def test_routes_are_described(application):
    """Every route has a heading, and every such heading is a route."""
    described = re.findall(r"^### `([A-Z]+ /[^`]*)`$", read("api.md"), re.MULTILINE)
    actual = [
        f"{route.method} {route.resource.canonical}"
        for route in application.router.routes()
        if route.method != "HEAD"
    ]
    assert sorted(described) == sorted(actual)


def test_routes_tell_their_statuses(document):
    """Each route's line of errors is that of the OpenAPI document, and success is as it says."""
    text = read("api.md")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            body = section(text, f"`{method.upper()} {path}`")
            line = re.search(r"^Errors: (.*)$", body, re.MULTILINE)
            told = set(re.findall(r"\d{3}", line[1])) if line else set()
            statuses = set(operation["responses"])
            assert told == {s for s in statuses if s >= "400"} - {"401", "403"}, (method, path)
            for status in statuses & {"201", "202", "204"}:
                assert status in body, (method, path)


def test_content_types_are_described(document):
    """Every content type that a route of the API takes or gives stands on the page."""
    text = read("api.md")
    for path, operations in document["paths"].items():
        for operation in operations.values() if path.startswith("/v1/") else ():
            bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
            for kind in {kind for body in bodies for kind in body.get("content", {})}:
                assert kind.replace("image/", "image/*").partition("*")[0] in text, kind


def test_open_routes_are_marked(document):
    """A route is marked as open exactly when it needs no key."""
    text = read("api.md")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            body = section(text, f"`{method.upper()} {path}`")
            assert ("*Open" in body) == (not operation["security"]), (method, path)


def test_routes_show_a_request():
    """Every route under /v1 and every probe shows how to call it with curl."""
    text = read("api.md")
    for name in re.findall(r"^### `(\w+ /(?:v1/|health|ready|metrics)[^`]*)`$", text, re.MULTILINE):
        if "/v1/stream/" not in name:
            assert "curl" in section(text, f"`{name}`"), name


def test_parameters_are_described():
    """The table holds every parameter of the API, and which of them a form can carry."""
    described = {quoted(row[0]): row[2] for row in rows(read("api.md"), "parameter")}
    names = params.ApiParams.__struct_fields__
    assert described == {n: "yes" if n in params.UPLOAD_FIELDS else "no" for n in names}


def test_old_names_are_described():
    """The table of old names is that of the code."""
    described = {quoted(row[0]): quoted(row[1]) for row in rows(read("api.md"), "old name")}
    assert described == params.OLD_NAMES


@pytest.mark.parametrize("task", results.TASKS)
def test_results_are_described(task):
    """Each task shows an answer with its fields, which the client can decode."""
    (block,) = blocks(section(read("api.md"), task), "json")
    answer = results.decode(block.encode())
    assert (answer.task, answer.schema_version) == (task, results.SCHEMA_VERSION)
    (kind,) = [kind for kind in results.RESULT_TYPES if task in kind.tasks]
    needed = {f.name for f in msgspec.structs.fields(kind) if f.required}
    common = {"schema_version", "task", "model", "timestamp"}
    assert needed <= set(json.loads(block)) - common
    allowed = set(kind.__struct_fields__) | {"depth_shape"} | common
    assert set(json.loads(block)) <= allowed


def test_model_fields_are_described():
    """Every field of a listed model is in the table."""
    described = [
        quoted(row[0]) for row in rows(section(read("api.md"), "`GET /v1/models`"), "field")
    ]
    assert described == list(results.ModelInfo.__struct_fields__)


# docs/errors.md


def subclasses(kind):
    """Return a class and everything below it."""
    return [kind, *(below for each in kind.__subclasses__() for below in subclasses(each))]


def test_statuses_are_described():
    """Every status that the server answers has a heading, and every such heading is one."""
    described = {int(name) for name in headings(read("errors.md")) if name.isdecimal()}
    own = {client.ConnectionFailed, client.BadAnswer}
    known = [kind for kind in subclasses(errors.MataError) if kind not in own]
    raised = {kind.status for kind in known if kind.__module__.startswith("mataserver")}
    assert described == raised | set(openapi._EXPLAINED) | {405}


def test_the_clients_exceptions_are_described():
    """Every exception of the client is named on the page of errors."""
    text = section(read("errors.md"), "In the Python client")
    for name in ("BadRequest", "NotFound", "Conflict", "InvalidParams", "Unavailable"):
        assert f"`{name}` {getattr(errors, name).status}" in text
    for kind in (client.ConnectionFailed, client.BadAnswer):
        assert f"`{kind.__name__}`" in text
        assert f"status {kind.status}" in text


def strings():
    """Return every string of the core's code."""
    found = set()
    for path in (ROOT / "mataserver").rglob("*.py"):
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
        if hasattr(metric, "_labelnames"):
            suffix = "_total" if metric._type == "counter" else ""
            actual[metric._name + suffix] = (metric._type, metric._labelnames)
    assert described == actual


# docs/plugins.md


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
        (contract.Context, "`Context`"),
        (contract.LoadContext, "`LoadContext`"),
        (contract.ModelSpec, "`ModelSpec`"),
    ],
)
def test_fields_are_described(kind, header):
    """Every field of what a plugin gives and gets has a line, in the code's order."""
    described = [quoted(row[0]) for row in rows(read("plugins.md"), header)]
    assert described == [field.name for field in dataclasses.fields(kind)]


def test_model_files_are_described():
    """What ``accepts`` gets is described, with what is derived from it."""
    described = [quoted(row[0]) for row in rows(read("plugins.md"), "`ModelFiles`")]
    fields = [field.name for field in dataclasses.fields(contract.ModelFiles)]
    assert described == [*fields, "model_type"]


def test_defaults_of_a_backend_are_described():
    """The table tells the default of every field that has one worth telling."""
    for field, row in zip(
        dataclasses.fields(contract.Backend), rows(read("plugins.md"), "field"), strict=True
    ):
        default = field.default
        if default is dataclasses.MISSING or default is None:
            assert row[1] == ""
        else:
            told = default.__name__ if isinstance(default, type) else str(default)
            assert quoted(row[1]) == told


def test_tasks_are_described():
    """The page of plugins names every task and its result."""
    text = read("plugins.md")
    described = {}
    for tasks, result, *_ in rows(section(text, "Results"), "task"):
        described |= dict.fromkeys(re.findall(r"`(\w+)`", tasks), quoted(result))
    assert described == {t: k.__name__ for k in results.RESULT_TYPES for t in k.tasks}
    listed = next(row[2] for row in rows(text, "field") if row[0] == "`task`")
    assert re.findall(r"`(\w+)`", listed) == list(results.TASKS)


@pytest.mark.parametrize("name", mataserver.__all__)
def test_the_plugin_api_is_described(name):
    """Every name of the root package stands on the page of plugins."""
    assert re.search(rf"\b{name}\b", read("plugins.md"))


def test_testing_is_described():
    """Every public function of the testing kit stands on the page of plugins."""
    text = section(read("plugins.md"), "Testing")
    for name in ("check_plugin", "serving", "installed", "FAKE"):
        assert f"`{name}" in text
        assert hasattr(testing, name)


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
    projects = [ROOT, *(ROOT / "plugins" / name for name in PLUGINS)]
    assert sorted(described) == sorted(set().union(*map(requirements, projects)))


def test_the_version_is_the_packages():
    """The version that the docs show is the one that is installed."""
    assert importlib.metadata.version("mataserver") == mataserver.__version__
    assert f'"version": "{mataserver.__version__}"' in read("api.md")
