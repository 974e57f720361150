"""``mataserver plugins``, and what of a plugin ``check`` tells."""

from __future__ import annotations

import pytest

from cli_checks import GEAR, ROUTES, WRECK, configure, errors, terminal

__all__ = ["terminal"]


DEMANDING = """
from mataserver import hookimpl

@hookimpl
def check(settings, session):
    return ["no key is given", "plugins.gear: no oil"]
"""


def test_what_a_plugin_prints_is_no_output(terminal):
    """It goes to stderr: a program may read what a command writes to stdout."""
    terminal.install("chatty", f'print("imported")\n{ROUTES}', mataserver={"chatty": "chatty"})
    result = terminal.run("plugins")
    assert "imported" in result.stderr
    assert "imported" not in result.stdout
    assert "chatty" in result.stdout
    source = 'print("greetings")'
    terminal.install("greeter", source, mataserver_commands={"greet": "greeter:greet"})
    result = terminal.run("check")
    assert "greetings" in result.stderr
    assert "greetings" not in result.stdout


def test_plugins(terminal):
    """Each backend has a row: its plugin, task, source, and the command that would install it."""
    terminal.install("gear-dist", GEAR, mataserver={"gear": "gear_dist"})
    terminal.install("route-dist", ROUTES, mataserver={"route": "route_dist"})
    result = terminal.run("plugins")
    assert (result.exit_code, result.stderr) == (0, "")
    header, rule, *rows = result.stdout.splitlines()
    assert header.split() == ["PLUGIN", "VERSION", "BACKEND", "TASK", "SOURCE", "INSTALLED"]
    assert set(rule) == {"-"}
    cells = [row.split(maxsplit=5) for row in rows]
    assert ["fake", "1.0", "fake-ocr", "ocr", "pip", "yes"] in cells
    absent = "no: pip install 'a-package-that-nobody-has'"
    assert ["fake", "1.0", "fake-absent", "detect", "pip", absent] in cells
    missing = "yes, but the system binary a-binary-that-nobody-has is not found"
    assert ["gear", "1.0", "gear", "ocr", "pip", missing] in cells
    assert ["route", "1.0", "—", "—", "—", "yes"] in cells


@pytest.mark.parametrize("strict", ["true", "false"])
def test_broken_plugins_are_listed(terminal, strict):
    """A broken plugin has a row with its reason, also where the server would refuse to start."""
    terminal.install("wreck", WRECK, mataserver={"wreck": "wreck"})
    (terminal.home / "mataserver.yaml").write_text(f"plugins: {{strict: {strict}}}\n")
    result = terminal.run("plugins")
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [line.split(maxsplit=5) for line in result.stdout.splitlines()]
    assert [
        "wreck",
        "1.0",
        "—",
        "—",
        "—",
        "BROKEN: RuntimeError: no way (wreck.py, line 1)",
    ] in rows


@pytest.mark.parametrize("name", ["wreck", "wreck-dist"])
def test_a_plugin_that_is_switched_off_is_no_fault(terminal, name):
    """It is listed as off, by its own name or its distribution's; no command calls it broken."""
    terminal.install("wreck-dist", WRECK, mataserver={"wreck": "wreck_dist"})
    settings = f"plugins: {{disabled: [{name}]}}\n"
    code, lines = configure(terminal, settings)
    assert (code, errors(lines)) == (0, [])
    result = terminal.run("plugins", "--config", "edge.yaml")
    rows = [line.split(maxsplit=5) for line in result.stdout.splitlines()]
    assert ["wreck", "1.0", "—", "—", "—", "off: plugins.disabled"] in rows
    assert "wreck" not in terminal.run("pull", "nothing", "--config", "edge.yaml").stderr


def test_log_level_debug_tells_more(terminal, monkeypatch):
    """On the level "debug" the traceback of a broken plugin goes to stderr."""
    terminal.install("wreck", WRECK, mataserver={"wreck": "wreck"})
    monkeypatch.setenv("MATA_SERVER_LOG_LEVEL", "debug")
    assert "Traceback" in terminal.run("plugins").stderr


def test_what_a_distribution_needs_and_lacks(terminal):
    """A plugin for another server is no error until it breaks, and is told before that."""
    terminal.install("gear-dist", GEAR, mataserver={"gear": "gear_dist"})
    metadata = terminal.site / "gear_dist-1.0.dist-info" / "METADATA"
    needs = ("mataserver>=9", "msgspec>=0.1", "nobody-has-this>2", "sold-apart; extra == 'more'")
    metadata.write_text(metadata.read_text() + "".join(f"Requires-Dist: {n}\n" for n in needs))
    code, lines = configure(terminal, "{}")
    assert code == 0
    assert [line for line in lines if "gear-dist" in line] == [
        "warning: gear-dist needs mataserver>=9, and 0.1.0 is installed",
        "warning: gear-dist needs nobody-has-this>2, which is not installed",
    ]


def test_commands_that_would_fail_are_told(terminal):
    """A command is imported when it runs; a check says before that it cannot be."""
    points = {"gone": "no_such_module:gone", "text": "greeter:text"}
    terminal.install("greeter", 'text = "no command"', mataserver_commands=points)
    lines = configure(terminal, "{}")[1]
    assert [line for line in lines if "greeter" in line] == [
        (
            "warning: the command gone of greeter is broken: ModuleNotFoundError: No module named "
            "'no_such_module'"
        ),
        "warning: the command text of greeter is broken: it is a str, not a click command",
    ]


def test_a_group_of_entry_points_that_nobody_reads(terminal):
    """What is installed under a misspelt one is found nowhere else."""
    terminal.install("greeter", mataserver_command={"greet": "greeter:greet"})
    lines = configure(terminal, "{}")[1]
    assert [line for line in lines if "greeter" in line] == [
        (
            "warning: greeter: the group of entry points 'mataserver.command' is not read; did you "
            "mean mataserver.commands?"
        )
    ]


def test_a_plugin_for_another_server_says_so(terminal):
    """It imports what this server does not have: the reason names the version that it needs."""
    source = "from mataserver import a_name_of_the_future"
    terminal.install("gear-dist", source, mataserver={"gear": "gear_dist"})
    metadata = terminal.site / "gear_dist-1.0.dist-info" / "METADATA"
    needs = ("mataserver>=9", "mataserver-onnx>=9; extra == 'all'")
    metadata.write_text(metadata.read_text() + "".join(f"Requires-Dist: {n}\n" for n in needs))
    code, lines = configure(terminal, "{}")
    assert code == 1
    [told] = errors(lines)
    assert told.startswith("plugin gear: ImportError: cannot import name 'a_name_of_the_future'")
    assert told.endswith("; it needs another version than mataserver 0.1.0")


def test_sentences_of_a_plugin_name_it(terminal):
    """What a plugin finds wrong says whose it is; a sentence that says so already stays."""
    terminal.install("gear-dist", DEMANDING, mataserver={"gear": "gear_dist"})
    code, lines = configure(terminal, "")
    assert code == 1
    assert errors(lines) == ["plugin gear: no key is given", "plugins.gear: no oil"]


def test_check_tells_names_that_two_bring(terminal):
    """Kinds of jobs of one name, and a task of two distributions, are told before any start."""
    kind = """
from mataserver import hookimpl

@hookimpl
def brings():
    return {"jobs": ["dig"]}
"""
    task = """
import msgspec
from mataserver import Backend, hookimpl

class Found(msgspec.Struct):
    depth: float

def load(spec, ctx):
    raise NotImplementedError

@hookimpl
def backends():
    yield Backend(name="NAME", task="shovel.holes", source="pip", load=load, result=Found)
"""
    for name in ("digger", "ditch"):
        terminal.install(f"{name}-dist", kind, mataserver={name: f"{name}_dist"})
    for name, plugin in (("shovel", "spade"), ("spoon", "shovel")):
        source = task.replace("NAME", name)
        terminal.install(f"mataserver-{name}", source, mataserver={plugin: f"mataserver_{name}"})
    result = terminal.run("check")
    assert result.exit_code == 1
    told = result.output.splitlines()
    assert "error: plugin ditch: 'dig' is provided to jobs by digger already" in told
    twice = "its task shovel.holes is brought by mataserver-shovel already"
    assert f"error: plugin shovel: backend spoon: {twice}" in told
