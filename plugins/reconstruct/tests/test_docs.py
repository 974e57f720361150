"""docs/reconstruct.md and the README against routes, metrics, options and settings."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import yaml
from serving_reconstruct import asking

from mataserver_reconstruct import drift, stages, uploads
from mataserver_reconstruct.command import reconstruct
from mataserver_reconstruct.settings import Settings

PLUGIN = Path(__file__).parents[1]
PAGE = (PLUGIN.parents[1] / "docs" / "reconstruct.md").read_text()


async def test_routes_and_metrics(tmp_path):
    """Every route has a heading with its statuses, every metric a line, and nothing else has."""
    async with asking(tmp_path, key="root-key") as ask:
        _, document = await ask("GET", "/openapi.json")
        _, metrics = await ask("GET", "/metrics")
    actual = {
        f"{method.upper()} {path}": {s for s in operation["responses"] if s >= "400"}
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if operation["tags"] == ["reconstruct"]
    }
    parts = re.split(r"^### `([A-Z]+ /[^`]*)`$", PAGE, flags=re.MULTILINE)[1:]
    told = {
        name: set(re.findall(r"\d{3}", re.search(r"^Errors: (.*)$", text, re.MULTILINE)[1]))
        for name, text in zip(parts[::2], parts[1::2], strict=True)
    }
    common = {"400", "401", "403", "429"}  # of every route
    assert {name: each - {"400"} for name, each in told.items()} == {
        name: each - common for name, each in actual.items()
    }
    described = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \| (?:counter|gauge|histogram)", PAGE, re.MULTILINE
    )
    kinds = re.findall(r"^# TYPE (\w+) ", metrics.decode(), re.MULTILINE)
    own = {name for name in kinds if not name.startswith(("mataserver_", "process_", "python_"))}
    names = {name for each in described for name in re.findall(r"`(\w+)`", each)}
    assert names == {name for name in own if not name.endswith("_created")}


def test_settings():
    """The README's YAML holds every setting with its default."""
    block = re.search(r"```yaml\n(.*?)```", (PLUGIN / "README.md").read_text(), re.DOTALL)
    assert yaml.safe_load(block[1]) == {"plugins": {"reconstruct": msgspec.to_builtins(Settings())}}


def test_options():
    """Every option of the command has a line, and every field of an upload is named."""
    described = set(re.findall(r"`--([a-z-]+)`", PAGE))
    actual = {p.opts[-1].lstrip("-") for p in reconstruct.params if p.opts[0].startswith("--")}
    assert actual - described <= {"output"}
    assert described <= actual
    for name in uploads.FIELDS:
        assert f"`{name}`" in PAGE


def test_stages_and_sentences():
    """The table of stages has their percents, and the page quotes what is recommended."""
    for name, (low, high) in stages.STAGES.items():
        assert f"| `{name}` | {low:.0f} to {high:.0f} |" in PAGE
    for sentence in drift.RECOMMENDATIONS.values():
        assert sentence in PAGE.replace("\n", " ")
