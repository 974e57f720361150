"""``mataserver list``, ``show`` and ``rm``: the registered models on the command line."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path

import pytest

from cli_terminal import Terminal
from conftest import register

MARCH = 1_772_720_521.0
GEAR = """
from mataserver import Backend, hookimpl

def load(spec, ctx):
    raise NotImplementedError

@hookimpl
def backends():
    yield Backend(
        name="gear",
        task="ocr",
        source="pip",
        load=load,
        requires=("json",),
        packages=("gear-core>=1.2,<2", "gear_text[fast]"),
        system_binary="a-binary-that-nobody-has",
    )
    yield Backend(
        name="gear-absent",
        task="ocr",
        source="pip",
        load=load,
        requires=("a_module_that_nobody_has",),
        packages=("a-package-that-nobody-has",),
    )
"""


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    return Terminal(tmp_path, monkeypatch)


# list


def test_list_of_nothing(terminal):
    """Without a model the list says so, and makes no data directory."""
    result = terminal.run("list")
    assert (result.exit_code, result.output) == (0, "No models registered.\n")
    assert not terminal.data.exists()


def registered(terminal):
    """Register two hub models, of which one is cached, two pip backends and a local file."""
    (terminal.home / "net.onnx").write_bytes(bytes(1_240_000))
    terminal.data.mkdir()
    (terminal.data / "model_registry.json").write_text(
        '{"version": 1, "models": {'
        '"facebook/detr-resnet-50": {"task": "detect", "source": "hf", "pulled_at": 1.0},'
        '"google/vit-base-patch16-224": {"task": "classify", "source": "hf", "pulled_at": 1.0},'
        '"easyocr": {"task": "ocr", "source": "pip", "pulled_at": 1.0},'
        '"net": {"task": "detect", "source": "local", "pulled_at": 1.0,'
        f'"path": "{terminal.home}/net.onnx"}}'
        "}}"
    )
    terminal.cache("facebook/detr-resnet-50", megabytes=167.304, accessed=MARCH)


def test_list(terminal):
    """The table has the documented columns; a size that is unknown or gone is a dash."""
    registered(terminal)
    result = terminal.run("list")
    assert result.exit_code == 0
    assert result.stdout == (
        "MODEL                        TASK     SOURCE  SIZE (MB)\n"
        "--------------------------------------------------------------\n"
        "facebook/detr-resnet-50      detect   hf          167.3\n"
        "google/vit-base-patch16-224  classify hf              —\n"
        "easyocr                      ocr      pip             —\n"
        "net                          detect   local         1.2\n"
    )


def test_list_as_json(terminal):
    """``--json`` prints the same as a list that programs read, null where nothing is known."""
    assert json.loads(terminal.run("list", "--json").stdout) == []
    registered(terminal)
    listed = {each["model"]: each for each in json.loads(terminal.run("list", "--json").stdout)}
    assert listed["net"] == {
        "model": "net",
        "task": "detect",
        "source": "local",
        "size_bytes": 1_240_000,
        "pulled_at": 1.0,
        "path": f"{terminal.home}/net.onnx",
    }
    assert listed["easyocr"]["size_bytes"] is None
    assert listed["facebook/detr-resnet-50"]["size_bytes"] == pytest.approx(167_304_000, rel=0.01)
    assert list(listed)[-1] == "net"


def test_ls_is_list(terminal):
    """``ls`` is another name of ``list``."""
    registered(terminal)
    assert terminal.run("ls").output == terminal.run("list").output


def test_list_of_a_long_name(terminal):
    """A name longer than the table is wide widens it, and the rule with it."""
    register(terminal.data, {"n" * 60: "ocr"})
    header, rule, row = terminal.run("list").stdout.splitlines()
    assert len(header) == len(rule) == len(row) == 88


def test_list_with_a_config_file(terminal, monkeypatch):
    """``--config`` names the file that says where the data directory is."""
    register(terminal.home / "edge", {"gear": "ocr"})
    (terminal.home / "edge.yaml").write_text("data_dir: edge\n")
    monkeypatch.delenv("MATA_SERVER_DATA_DIR")
    assert "gear" in terminal.run("list", "--config", "edge.yaml").stdout


@pytest.mark.parametrize("arguments", [["list"], ["show", "m"], ["rm", "m"]])
def test_corrupt_registry(terminal, arguments):
    """A corrupt registry is a failure with a reason, and is left as it is."""
    terminal.data.mkdir()
    file = terminal.data / "model_registry.json"
    file.write_text("{")
    result = terminal.run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: the model registry is corrupt")
    assert file.read_text() == "{"


# show


def test_show_of_a_hub_model(terminal):
    """A hub model shows its size with two decimals and its last access in local time."""
    registered(terminal)
    result = terminal.run("show", "facebook/detr-resnet-50")
    assert result.exit_code == 0
    assert result.output == (
        "  model:         facebook/detr-resnet-50\n"
        "  task:          detect\n"
        "  source:        hf\n"
        "  size:          167.30 MB\n"
        f"  last_accessed: {datetime.fromtimestamp(MARCH):%Y-%m-%d %H:%M:%S}\n"  # noqa: DTZ006 - local time is what is shown
    )


def test_show_of_a_hub_model_that_is_gone(terminal):
    """A hub model whose cache is gone shows dashes."""
    registered(terminal)
    lines = terminal.run("show", "google/vit-base-patch16-224").output.splitlines()
    assert lines[3:] == ["  size:          —", "  last_accessed: —"]


SCALES = """
from msgspec import Struct

from mataserver import Backend, BadRequest, hookimpl

class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    unit: str = "kg"

@hookimpl
def settings():
    return Settings

def load(spec, ctx):
    raise NotImplementedError

def accepts(files):
    if files.settings.unit == "stone":
        raise BadRequest("nobody weighs in stone; set unit")
    return files.path.suffix == ".scales"

def facts(files):
    if files.settings.unit == "lb":
        raise BadRequest("the scales are worn out")
    return {"unit": files.settings.unit}

@hookimpl
def backends():
    yield Backend(
        name="scales", task="detect", source="local", load=load, accepts=accepts, facts=facts
    )
"""


@pytest.mark.parametrize(
    ("unit", "told"),
    [
        ("kg", "  unit:          kg"),
        ("lb", "  problem:       the scales are worn out"),
        ("stone", "  problem:       nobody weighs in stone; set unit"),
    ],
)
def test_show_tells_what_a_backend_has_decided(unit, told, terminal):
    """The facts follow from the plugin's settings; without any, the reason stands there."""
    terminal.install("scales-dist", SCALES, mataserver={"scales": "scales_dist"})
    path = terminal.home / "kitchen.scales"
    path.touch()
    assert terminal.run("pull", str(path), "--task", "detect").exit_code == 0
    (terminal.home / "mataserver.yaml").write_text(f"plugins: {{scales: {{unit: {unit}}}}}\n")
    result = terminal.run("show", "kitchen.scales")
    assert result.exit_code == 0
    assert result.output.splitlines()[5:] == [f"  path:          {path}", told]


def test_show_of_a_pip_model(terminal):
    """A pip model shows its packages without versions, and whether its binary is there."""
    terminal.install("gear-dist", GEAR, mataserver={"gear": "gear_dist"})
    register(terminal.data, {"gear": "ocr"})
    result = terminal.run("show", "gear")
    assert result.exit_code == 0
    assert result.output == (
        "  model:         gear\n"
        "  task:          ocr\n"
        "  source:        pip\n"
        "  size:          —\n"
        "  last_accessed: —\n"
        "  pip_packages:  gear-core, gear_text\n"
        "  installed:     yes\n"
        "  system_binary: a-binary-that-nobody-has (no)\n"
    )


def test_show_of_a_pip_model_without_its_packages(terminal):
    """A pip model that cannot be imported is not installed; without a binary there is no row."""
    terminal.install("gear-dist", GEAR, mataserver={"gear": "gear_dist"})
    register(terminal.data, {"gear-absent": "ocr"})
    lines = terminal.run("show", "gear-absent").output.splitlines()
    assert lines[5:] == [
        "  pip_packages:  a-package-that-nobody-has",
        "  installed:     no",
    ]


def test_show_of_a_pip_model_without_its_plugin(terminal):
    """A pip model whose plugin was removed is not installed."""
    register(terminal.data, {"orphan": "ocr"})
    lines = terminal.run("show", "orphan").output.splitlines()
    assert lines[5:] == ["  pip_packages:  —", "  installed:     no"]


def test_show_finds_a_binary(terminal, monkeypatch):
    """A binary that is on PATH is shown as found."""
    python = Path(sys.executable).name
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    source = GEAR.replace("a-binary-that-nobody-has", python)
    terminal.install("gear-found", source, mataserver={"gear": "gear_found"})
    register(terminal.data, {"gear": "ocr"})
    assert terminal.run("show", "gear").output.endswith(f"  system_binary: {python} (yes)\n")


def test_show_of_a_local_model(terminal):
    """A local model shows where it is, and this one that it is none."""
    registered(terminal)
    lines = terminal.run("show", "net").output.splitlines()
    assert lines[2:] == [
        "  source:        local",
        "  size:          1.24 MB",
        "  last_accessed: —",
        f"  path:          {terminal.home}/net.onnx",
        "  problem:       the file is not an ONNX model, or not the whole of one",
    ]


@pytest.mark.parametrize("command", ["show", "rm"])
def test_unknown_model(terminal, command):
    """A model that is not registered is a failure of show and rm."""
    result = terminal.run(command, "org/none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: Model not found in registry: org/none\n"


# rm


@pytest.mark.parametrize("command", ["show", "rm"])
def test_a_misspelt_model(terminal, command):
    """A model that is like a registered one is told with that one's name."""
    registered(terminal)
    result = terminal.run(command, "detr_resnet-5O")
    assert result.stderr == (
        "error: Model not found in registry: detr_resnet-5O; "
        "did you mean facebook/detr-resnet-50?\n"
    )


@pytest.mark.parametrize(
    ("model", "note"),
    [
        ("facebook/detr-resnet-50", "model weights on disk (HF cache) were not deleted."),
        ("easyocr", "pip packages were not uninstalled. Remove manually if needed."),
        ("net", "{home}/net.onnx was not deleted."),
    ],
)
def test_rm(terminal, model, note):
    """Removing forgets the model, says what it did not delete, and deletes nothing."""
    registered(terminal)
    result = terminal.run("rm", model)
    assert result.exit_code == 0
    assert result.output == (
        f"Removed '{model}' from the registry.\nNote: {note.format(home=terminal.home)}\n"
    )
    listed = terminal.run("list").output
    assert f"\n{model} " not in listed
    assert len(listed.splitlines()) == 5
    assert (terminal.home / "net.onnx").is_file()
    assert (terminal.home / "hf/hub/models--facebook--detr-resnet-50/blobs/model").is_file()
