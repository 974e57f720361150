"""The documentation against the code: what is there is described, what is described is there."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import msgspec
import pytest
import yaml

from conftest import POINTS
from markdown_pages import DOCS, PAGES, PLUGINS, ROOT, blocks, headings, quoted, read, rows, section
from mataserver import config, plugins, results
from mataserver.app import composition as app
from mataserver.config import needs
from mataserver.params.table import OLD_NAMES, UPLOAD_FIELDS, ApiParams
from mataserver.testing import installed

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


TABLES = [
    (config.Settings, "setting", 3),
    (config.ModelSettings, "field", 2),
    (needs.Needs, "of the needs", 2),
    (needs.Span, "of the replicas", 2),
]
"""Each table of docs/config.md: its struct, its first heading, the column of the defaults."""


@pytest.mark.parametrize(("kind", "header", "column"), TABLES)
def test_settings_are_described(kind, header, column):
    """Every setting has a line with its default, and every line is a setting."""
    described = {quoted(row[0]): yaml.safe_load(quoted(row[column])) for row in table(header)}
    actual = {field.name: default_of(field) for field in msgspec.structs.fields(kind)}
    assert described == actual


def range_of(field):
    """Return a setting's range, as the page writes it, or None without one."""
    kind = msgspec.inspect.type_info(field.type)
    numbers = msgspec.inspect.IntType | msgspec.inspect.FloatType
    kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    for number in (each for each in kinds if isinstance(each, numbers)):
        if number.gt == 0 and isinstance(number, msgspec.inspect.FloatType):
            low = "over 0,"
        else:
            low = f"{number.ge if number.ge is not None else number.gt + 1:g}"
        return f"from {low}" if number.le is None else f"{low} to {number.le:.0f}"
    return None


@pytest.mark.parametrize(("kind", "header", "column"), TABLES)
def test_ranges_are_described(kind, header, column):
    """The type of every number states its range; ``seconds`` alone stands for the usual one."""
    described = {quoted(row[0]): row[column - 1] for row in table(header)}
    for field in msgspec.structs.fields(kind):
        if (expected := range_of(field)) is not None:
            stated = described[field.name].split(", or")[0]
            assert stated.replace("seconds", "over 0, to 86400") == expected, field.name


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
    """Return the YAML of docs/config.md, README, config.yaml, and of installed plugins' pages."""
    own = [ROOT / "plugins" / name / "README.md" for name in PLUGINS]
    pages = [DOCS / "config.md", ROOT / "README.md", *own]
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
    plugin, *others = plugins.discover(config.Settings(), installed(name)).found
    assert all(each.settings == plugin.settings for each in others)
    text = (ROOT / "plugins" / name / "README.md").read_text()
    shown = [yaml.safe_load(block).get("plugins", {}) for block in blocks(text, "yaml")]
    own = [each[name] for each in shown if name in each]
    if plugin.settings is None:
        assert not own
    else:
        assert msgspec.to_builtins(plugin.settings) in own


# docs/api.md


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """A server that was composed, with the protocols that the page describes."""
    folder = tmp_path_factory.mktemp("data")
    settings = config.load(
        environ={}, directory=folder, data_dir=str(folder), shared_dir=str(folder)
    )
    return app.build(settings, plugins.discover(settings, POINTS))


@pytest.fixture(scope="module")
def document(composed):
    """The OpenAPI document."""
    return json.loads(composed.openapi_document())


def test_routes_are_described(composed):
    """Every route has a heading, and every such heading is a route."""
    described = re.findall(r"^### `([A-Z]+ /[^`]*)`$", read("api.md"), re.MULTILINE)
    actual = [
        f"{route.method} {route.resource.canonical}"
        for route in composed.application.router.routes()
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
            failures = {s for s in statuses if s >= "400"}
            common = {"400", "401", "403"}  # any route may answer these: see "Keys"
            assert told - common == failures - common, (method, path)
            assert told <= failures, (method, path)
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
    names = ApiParams.__struct_fields__
    assert described == {n: "yes" if n in UPLOAD_FIELDS else "no" for n in names}


def test_parameters_name_their_tasks():
    """Where the table names the tasks of a parameter, they are those whose backends use it."""
    used: dict[str, set[str]] = {}
    for offer in plugins.discover(config.Settings(), installed(*PLUGINS)).provided:
        for name in offer.backend.params.__struct_fields__:
            used.setdefault(name, set()).add(offer.backend.task)
    described = {
        quoted(row[0]): set(row[3].split(", ")) for row in rows(read("api.md"), "parameter")
    }
    named = {name: tasks for name, tasks in described.items() if tasks <= set(results.TASKS)}
    assert len(named) > 10
    assert named == {name: used[name] for name in named}


def test_own_parameters_are_described():
    """Every parameter that is no one's but a backend's has a line with its backends."""
    described = {quoted(row[0]): set(re.findall(r"`([^`]+)`", row[1])) for row in own_parameters()}
    actual: dict[str, set[str]] = {}
    for offer in plugins.discover(config.Settings(), installed(*PLUGINS)).provided:
        for name in offer.backend.params.__struct_fields__:
            if name not in ApiParams.__struct_fields__:
                actual.setdefault(name, set()).add(offer.backend.name)
    assert described == actual


def own_parameters():
    """Return the rows of the table of the backends' own parameters."""
    return rows(read("api.md"), "own parameter")


def test_old_names_are_described():
    """The table of old names is that of the code."""
    described = {quoted(row[0]): quoted(row[1]) for row in rows(read("api.md"), "old name")}
    assert described == OLD_NAMES


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
