"""The command line without a server: help, version, wrong usage and configuration, imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cli_terminal import Terminal
from conftest import register
from mataserver import __version__, config, plugins, testing
from mataserver.app import composition as app
from mataserver.cli import CommandError, serving

MARCH = 1_772_720_521.0
HEAVY = {
    "aiohttp",
    "asyncio",
    "ctypes",
    "ssl",
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
FAILING = """
import sys
from mataserver import cli
def use_file(**_):
    path, mode = sys.argv[1:]
    with open(path, mode) as file:
        file.read() if mode == "r" else file.write("x")
cli.cli.main = use_file
cli.main()
"""
"""A command that reads or writes a file: errors of an open file do not name it."""


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    return Terminal(tmp_path, monkeypatch)


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


def test_help_has_whole_sentences(terminal):
    """In no list of commands, also of the plugins', is a sentence cut off."""
    groups = [()]
    while groups:
        path = groups.pop()
        for line in terminal.run(*path, "--help").output.partition("Commands:\n")[2].splitlines():
            name, _, sentence = line.strip().partition(" ")
            assert sentence.endswith("."), (path, line)
            assert not sentence.endswith("..."), (path, line)
            groups.append((*path, name))
        if not path:
            assert ("jobs",) in groups


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


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["list"], ["check"]])
def test_an_output_that_is_full(terminal, arguments):
    """It is a failure like others: one line on stderr, and the exit code 1."""
    register(terminal.data, {"gear": "ocr"})
    with Path("/dev/full").open("w") as full:
        process = terminal.start(*arguments, stdout=full)
        _, said = process.communicate()
    assert process.returncode == 1
    assert said == "error: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("path", "mode", "reason"),
    [("/proc/self/mem", "r", "Input/output error"), ("/dev/full", "w", "No space left on device")],
)
def test_another_file_that_fails(path, mode, reason):
    """It is not the output: what is wrong stands in the traceback."""
    ran = subprocess.run(
        [sys.executable, "-c", FAILING, path, mode], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "in use_file" in ran.stderr
    assert ran.stderr.splitlines()[-1].endswith(reason)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["list"], ["serve", "-h"]])
def test_light_commands_import_little(terminal, arguments):
    """What is told from here alone imports no plugin, no server, no framework, not even asyncio."""
    register(terminal.data, {"gear": "ocr"})
    terminal.cache("org/fake", megabytes=1.0, accessed=MARCH)
    ran = subprocess.run(
        [sys.executable, "-c", MODULES, *arguments], capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(ran.stdout.split())


def test_a_command_that_asks_the_plugins_serves_nothing(terminal):
    """The backends are known without the page, a database, a protocol or what serves them."""
    register(terminal.data, {"gear": "ocr"})
    ran = subprocess.run(
        [sys.executable, "-c", MODULES, "plugins"], capture_output=True, text=True, check=True
    )
    modules = set(ran.stdout.splitlines()[-1].split())
    assert {"mataserver.plugins", "mataserver_console", "mataserver_hf"} <= modules
    assert not modules & {"aiohttp", "sqlalchemy", "prometheus_client", "numpy", "torch"}


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


def test_a_reason_is_no_terminals_command(capsys):
    """What a server quotes of others colours nothing, and clears no screen."""
    CommandError("cannot\tload \x1b[31m\x9b1m\u202eit\nTraceback").show()
    assert capsys.readouterr().err == "error: cannot load [31m 1m it Traceback\n"


def test_a_long_reason_is_one_line(terminal):
    """A reason of several lines, such as the YAML parser's, is put on one."""
    (terminal.home / "mataserver.yaml").write_text("port: [1\nhost: }\n")
    result = terminal.run("list")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: configuration: mataserver.yaml cannot be read: ")
    assert "^" not in result.stderr  # the excerpt with a caret is for several lines
    assert result.stderr.count("\n") == 1


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


def test_no_link_where_there_is_no_page(tmp_path):
    """Without a plugin's page at / nothing is printed to open; with the console it is a link."""
    settings = config.load(environ={}, directory=tmp_path, data_dir=str(tmp_path), api_key="k")
    for names, begins in (((), ""), (("console",), "http://127.0.0.1:8110/#code=")):
        found = plugins.discover(settings, [testing.FAKE, *testing.installed(*names)])
        composed = app.build(settings, found)
        link = serving._link(settings, "http://127.0.0.1:8110", composed)
        assert link[: len(begins) or None] == begins
