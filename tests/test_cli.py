"""The command line without a server: its frame, list, show, rm and the plugins' commands."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from cli_terminal import Terminal
from conftest import register
from mataserver import __version__, config, plugins, testing
from mataserver.app import composition as app
from mataserver.cli import serving

MARCH = 1_772_720_521.0
HEAVY = {
    "aiohttp",
    "numpy",
    "huggingface_hub",
    "torch",
    "cv2",
    "mataserver.app",
    "mataserver.plugins",
    "mataserver_opencv",
}
MODULES = """
import sys
from mataserver.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code
print("\\n" + " ".join(sys.modules))
"""
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


# the frame


def test_alone_it_prints_help(terminal):
    """Without a subcommand the help with every command is printed, and that is no failure."""
    result = terminal.run()
    assert result.exit_code == 0
    assert result.output == terminal.run("--help").output
    named = [line.split()[0] for line in result.output.partition("Commands:")[2].splitlines()[1:]]
    assert named[:13] == [
        *("serve", "pull", "list", "show", "rm", "load", "stop", "infer", "ps", "cluster"),
        *("plugins", "check", "version"),
    ]


@pytest.mark.parametrize("arguments", [["version"], ["-v"], ["--version"]])
def test_version(terminal, arguments):
    """The version is the package's, three ways."""
    result = terminal.run(*arguments)
    assert (result.exit_code, result.output) == (0, f"mataserver {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["list", "more"],
        ["show"],
        ["rm"],
        ["load"],
        ["stop"],
        ["pull"],
        ["pull", "org/model"],
        ["pull", "org/model", "--task", "guess"],
        ["pull", "org/model", "--task", "detect", "--name", "other"],
        ["serve", "--port", "many"],
        ["load", "m", "--url", "gopher://here"],
    ],
)
def test_wrong_usage(terminal, arguments):
    """Wrong usage exits with 2 and says what is wrong on stderr."""
    result = terminal.run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr


def test_processes_exit_as_told(terminal):
    """The exit codes and streams of a real process are those of the tests above."""
    shown = terminal.finish("show", "unknown")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == "error: Model not found in registry: unknown\n"
    assert terminal.finish("pull", "x/y", "--task", "guess").returncode == 2


def test_any_terminal_can_be_written_to(terminal, monkeypatch):
    """An output that cannot encode the dash gets a question mark, not a traceback."""
    register(terminal.data, {"gear": "ocr"})
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    listed = terminal.finish("list")
    assert listed.returncode == 0
    assert listed.stdout.splitlines()[2].split() == ["gear", "ocr", "pip", "?"]


@pytest.mark.parametrize("arguments", [["--version"], ["list"]])
def test_light_commands_import_little(terminal, arguments):
    """Neither the version nor the list imports a plugin, the server or a framework."""
    register(terminal.data, {"gear": "ocr"})
    terminal.cache("org/fake", megabytes=1.0, accessed=MARCH)
    ran = subprocess.run(
        [sys.executable, "-c", MODULES, *arguments], capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(ran.stdout.split())


@pytest.mark.parametrize("command", [["list"], ["show", "m"], ["rm", "m"], ["plugins"]])
def test_bad_configuration_is_one_line(terminal, command):
    """A configuration that cannot be used is one line on stderr and exit code 1."""
    (terminal.home / "mataserver.yaml").write_text("port: many\n")
    result = terminal.run(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    said = "configuration (mataserver.yaml): port: expected `int`, got `str`"
    assert result.stderr == f"error: {said}\n"


@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        ("plugins", "plugins: {fake: {speed: 1}}", "plugins.fake.speed: unknown key"),
        ("serve", "plugins: {fake: {speed: 1}}", "plugins.fake.speed: unknown key"),
        (
            "serve",
            "models: [{model: fake-ocr, task: ocr, params: {detial: 1}}]",
            "models: fake-ocr: params.detial: unknown parameter; did you mean detail?",
        ),
        (
            "serve",
            "models: [{model: fake-detect, task: ocr}]",
            "models: fake-detect: task: it serves detect, not ocr",
        ),
    ],
)
def test_what_only_the_plugins_know_names_the_file_too(terminal, command, text, said):
    """What a plugin's settings or a model's params refuse is told with the file."""
    terminal.install("fake-dist", mataserver={"fake": "mataserver.testing:fake"})
    (terminal.home / "edge.yaml").write_text(text)
    ran = terminal.finish(command, "--config", "edge.yaml")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"error: configuration (edge.yaml): {said}\n"


def test_a_wrong_variable_names_no_file(terminal, monkeypatch):
    """What is wrong in the environment is told by its variable alone."""
    (terminal.home / "mataserver.yaml").write_text("port: 9000\n")
    monkeypatch.setenv("MATA_SERVER_PORT", "many")
    said = "environment: MATA_SERVER_PORT: expected `int`, got `str`"
    assert terminal.run("list").stderr == f"error: {said}\n"


def test_a_long_reason_is_one_line(terminal):
    """A reason of several lines, such as the YAML parser's, is put on one."""
    (terminal.home / "mataserver.yaml").write_text("port: [1\nhost: }\n")
    result = terminal.run("list")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: configuration: mataserver.yaml cannot be read: ")
    assert result.stderr.count("\n") == 1


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
    ("arguments", "said"),
    [
        (["lst"], "no such command: lst; did you mean list?"),
        (["nothing-like-it"], "no such command: nothing-like-it\n"),
        (["pull", "org/m", "--task", "object-detection"], "; did you mean detect?"),
        (["pull", "org/m", "--task", "Segmentation"], "; did you mean segment?"),
        (["pull", "org/m", "--task", "smell"], "'vlm'.\n"),
    ],
)
def test_misspelt_words(terminal, arguments, said):
    """Of a command or a task that does not exist the one that may be meant is told."""
    assert said in terminal.run(*arguments).stderr


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


# the plugins' commands

COMMANDS = """
import click

open("imported", "w").close()

@click.command()
@click.option("--times", default=1)
def greet(times):
    "Greet."
    click.echo("hello " * times)

@click.command()
def fail():
    from mataserver import NotFound
    raise NotFound("nobody is here")

text = "no command"
"""


@pytest.fixture
def extended(terminal):
    """A terminal with a distribution that brings commands."""
    points = {
        "greet": "greeter:greet",
        "fail": "greeter:fail",
        "text": "greeter:text",
        "gone": "greeter_that_is_gone:greet",
        "rm": "greeter:greet",
        "ls": "greeter:greet",
    }
    terminal.install("greeter", COMMANDS, mataserver_commands=points)
    return terminal


def test_commands_of_plugins_are_listed_unseen(extended):
    """The help says of a plugin's command what its docstring says, without importing it."""
    listed = extended.run("--help").output
    told = {line.split()[0]: " ".join(line.split()[1:]) for line in listed.splitlines() if line}
    assert told["greet"] == "Greet."
    assert told["fail"] == told["gone"] == "Command of greeter."
    assert not (extended.home / "imported").exists()


def test_commands_of_plugins_run(extended):
    """A plugin's command takes its own options and has its own help."""
    assert extended.run("greet", "--times", "2").output == "hello hello \n"
    assert "--times" in extended.run("greet", "--help").output
    assert extended.run("greet", "--times", "x").exit_code == 2


CONTEXT = """
import click
from msgspec import Struct
from mataserver import read_configuration

class Settings(Struct):
    words: str = "none"

@click.command()
@click.option("--config", "file")
def context(file):
    found = read_configuration(file)
    words = found.plugin("greeter", Settings).words
    client = found.client()
    click.echo(f"{found.data_dir} {found.url} {found.key} {words} {type(client).__name__}")
    client.close()
"""


def test_a_command_has_its_context(terminal):
    """A plugin's command gets its settings, the data directory, a URL, a key and a client."""
    terminal.install("greeter", CONTEXT, mataserver_commands={"context": "greeter:context"})
    file = terminal.home / "own.yaml"
    file.write_text(
        "host: 0.0.0.0\nport: 4242\napi_keys: [k-1]\nplugins: {greeter: {words: well met}}\n"
    )
    told = terminal.run("context", "--config", str(file)).output
    assert told == f"{terminal.home / 'data'} http://localhost:4242 k-1 well met Client\n"


def test_failures_of_plugins_are_one_line(extended):
    """A ``MataError`` of a plugin's command is one line on stderr, as one of ours."""
    result = extended.run("fail")
    assert (result.exit_code, result.output) == (1, "error: nobody is here\n")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone", "ModuleNotFoundError: No module named 'greeter_that_is_gone'"),
        ("text", "it is a str, not a click command"),
    ],
)
def test_broken_commands_say_so(extended, name, reason):
    """A command that cannot be imported, or is none, is one line on stderr and exit code 1."""
    result = extended.run(name)
    assert result.exit_code == 1
    assert result.output == f"error: the command {name} of greeter is broken: {reason}\n"


@pytest.mark.parametrize("name", ["rm", "ls"])
def test_our_names_are_ours(extended, name):
    """A plugin's command with a name of ours is refused: ours runs."""
    extended.run(name, "x")
    assert not (extended.home / "imported").exists()
    assert f"command {name}: greeter (refused: the name is taken)" in extended.run("plugins").output


def test_one_name_of_two_plugins_is_nobodys(extended):
    """A command that two distributions bring is refused and both are named; others run on."""
    extended.install("waver", COMMANDS, mataserver_commands={"greet": "waver:greet"})
    said = "the command greet of greeter and waver is refused: only one may bring it"
    for arguments in (["greet"], ["greet", "--help"]):
        result = extended.run(*arguments)
        assert (result.exit_code, result.output) == (1, f"error: {said}\n")
    assert not (extended.home / "imported").exists()
    assert "\n  greet " not in extended.run("--help").output
    assert "command greet: greeter and waver (refused: only one may bring it)" in (
        extended.run("plugins").output
    )
    assert f"warning: {said}" in extended.run("check").output
    assert extended.run("fail").output == "error: nobody is here\n"


def test_no_link_where_there_is_no_page(tmp_path):
    """Without a plugin's page at / nothing is printed to open; with the console it is a link."""
    settings = config.load(environ={}, directory=tmp_path, data_dir=str(tmp_path), api_key="k")
    for names, begins in (((), ""), (("console",), "http://127.0.0.1:8110/#code=")):
        found = plugins.discover(settings, [testing.FAKE, *testing.installed(*names)])
        composed = app.build(settings, found)
        link = serving._link(settings, "http://127.0.0.1:8110", composed)
        assert link[: len(begins) or None] == begins
