"""The commands that plugins bring."""

from __future__ import annotations

import pytest

from cli_terminal import Terminal

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
def terminal(tmp_path, monkeypatch):
    return Terminal(tmp_path, monkeypatch)


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
