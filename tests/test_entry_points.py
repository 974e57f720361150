"""Entry points that an author gets wrong, and installations that are incomplete."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from cli_terminal import Terminal, serving
from mataserver.cli import extensions

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = """
from mataserver import Backend, ClassifyResult, hookimpl

class Model:
    def predict(self, images, params):
        return [ClassifyResult([]) for _ in images]

def load(spec, ctx):
    return Model()

@hookimpl
def backends():
    return [Backend(name="{0}", task="classify", source="pip", load=load)]
"""
EXITS = "import sys\nsys.exit(3)\n"


@pytest.fixture
def terminal(tmp_path, monkeypatch):
    return Terminal(tmp_path, monkeypatch)


def install(terminal, name, value=None):
    """Install a plugin whose entry point has that value, by default its module."""
    points = {name: value or f"mataserver_{name}"}
    terminal.install(f"mataserver-{name}", PLUGIN.format(name), mataserver=points)


def test_an_entry_point_that_names_no_module(terminal):
    """The commands and the server go on without the plugin, and say what is wrong with it."""
    install(terminal, "aim", "mataserver-aim")
    install(terminal, "beam")
    said = "its entry point 'mataserver-aim' names no module: a module's name has _ in place of -"
    rows = {line.split()[0]: line for line in terminal.run("plugins").output.splitlines() if line}
    assert rows["aim"].endswith(f"BROKEN: {said}")
    assert rows["beam"].endswith("yes")
    assert f"error: plugin aim: {said}" in terminal.run("check").output
    assert terminal.run("list").exit_code == 0
    with serving(terminal) as server:
        assert f"aim 1.0 (BROKEN: {said})" in server.value("plugins")
        assert "beam 1.0" in server.value("plugins")


def test_a_distribution_without_metadata(terminal):
    """What half an installation has left is a plugin without a version, and stops no other."""
    install(terminal, "aim")
    install(terminal, "beam")
    (terminal.site / "mataserver_aim-1.0.dist-info" / "METADATA").unlink()
    rows = {line.split()[0]: line for line in terminal.run("plugins").output.splitlines() if line}
    assert rows["aim"].split()[1:3] == ["—", "aim"]
    assert rows["beam"].split()[1:3] == ["1.0", "beam"]
    assert terminal.run("check").exception is None


def test_a_command_whose_entry_point_names_no_module(terminal):
    """It is refused with the reason; the help lists the others."""
    terminal.install("greeter", "", mataserver_commands={"greet": "greeter-tools:greet"})
    said = "its entry point 'greeter-tools:greet' names no module"
    assert "\n  greet " not in terminal.run("--help").output
    result = terminal.run("greet")
    assert result.exit_code == 1
    assert result.output.startswith(f"error: the command greet of greeter is refused: {said}")
    assert f"warning: the command greet of greeter is refused: {said}" in (
        terminal.run("check").output
    )


def test_a_command_that_exits_while_it_is_imported(terminal):
    """It is broken as any other, and does not end the program without a word."""
    terminal.install("greeter", EXITS, mataserver_commands={"greet": "greeter:greet"})
    result = terminal.run("greet")
    said = "error: the command greet of greeter is broken: SystemExit: 3\n"
    assert (result.exit_code, result.output) == (1, said)


def test_a_moved_setting_whose_entry_point_names_no_plugin(terminal):
    """The setting is unknown, as it would be without that entry point."""
    install(terminal, "aim")
    terminal.install("greeter", "", mataserver_settings={"old_name": "a im:name"})
    (terminal.home / "mataserver.yaml").write_text("old_name: 1\n")
    result = terminal.run("list")
    assert result.exit_code == 1
    assert "old_name" in result.output
    assert result.output.startswith("error: configuration")


def test_commands_of_this_projects_plugins_are_known(terminal, monkeypatch):
    """Where a plugin is not installed, its command names the package."""
    declared = {}
    for file in (ROOT / "plugins").glob("*/pyproject.toml"):
        points = tomllib.loads(file.read_text())["project"].get("entry-points", {})
        declared |= dict.fromkeys(points.get("mataserver.commands", {}), file.parent.name)
    assert declared == extensions.PROJECT_COMMANDS
    monkeypatch.setattr(extensions, "found", dict)
    for name, plugin in declared.items():
        result = terminal.run(name, "list")
        assert result.exit_code == 2
        assert (
            f"the command {name} needs a package: pip install mataserver-{plugin} "
            f"(./plugins/{plugin} in a checkout)"
        ) in result.stderr
